"""Score answers: numbers, letters, and the papers' own rules."""
