"""A run: its configuration, its directory on disk, and the model that it is. Imports core, methods, tasks."""
