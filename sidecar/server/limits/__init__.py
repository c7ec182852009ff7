"""The configured limits, compared with those of the last start."""
