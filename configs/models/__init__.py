"""Config files that `--models NAME --config-dir configs` finds by file name."""
