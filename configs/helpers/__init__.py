"""What configs call of the package; read_base runs these files for real."""
