"""unspoken: language models that reason without writing the reasoning down."""
__version__ = "0.1.0"
