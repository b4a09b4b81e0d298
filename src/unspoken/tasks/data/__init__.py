"""Tasks that are read from published data sets."""
