"""Config files that `--summarizers NAME --config-dir configs` finds by file name."""
