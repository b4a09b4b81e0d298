"""The training loop: schedule, validation, progress. Imports runs, evaluation, inspector, pages."""
