"""Reports runs: their folders are read into one frame, averaged, ranked, and written."""
