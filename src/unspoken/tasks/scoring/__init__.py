"""Is it right: answers, letters, and the papers' own rules."""
