"""Which rows make up a step, and how they get there: each process lays out its own."""
