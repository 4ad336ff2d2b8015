"""Several needles a sample, to be found or to be combined, on NeedleBench's data."""
