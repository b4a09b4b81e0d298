"""Export runs for other software: Hugging Face folders, prompt embeddings. Imports runs, evaluation."""
