"""A run as something that others load: Hugging Face folders, prompt embeddings. Imports runs, evaluation."""
