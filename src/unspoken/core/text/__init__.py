"""What is written: problems, templates, chats, steps. Imports errors and core.config alone; no torch."""
