"""Reading in order: a list of what every k-th section says."""
