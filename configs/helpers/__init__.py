"""Functions that configs call; read_base runs these files for real."""
