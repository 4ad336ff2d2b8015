"""Config files that `--datasets NAME --config-dir configs` finds by file name."""
