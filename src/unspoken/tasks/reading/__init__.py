"""Read files into examples: formats, styles, steps, splits."""
