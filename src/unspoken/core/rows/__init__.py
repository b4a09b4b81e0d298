"""A problem as a row, rows as a batch, the stages of a curriculum. Imports core.text."""
