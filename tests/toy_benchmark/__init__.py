"""A benchmark of another package: all that one needs besides its configs, in three files."""
