"""From files to examples: formats, styles, steps, splits."""
