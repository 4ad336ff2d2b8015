"""Needle-in-a-haystack data set configs, for `read_base` and for plain imports."""
