"""A run: its configuration, its directory on disk, and its model. Imports core, methods, tasks."""
