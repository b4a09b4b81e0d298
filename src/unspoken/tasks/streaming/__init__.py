"""Training rows that do not fit into memory: read one by one, checked once, and kept on the disk."""
