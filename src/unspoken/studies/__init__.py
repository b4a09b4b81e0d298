"""Studies: a file that says which runs to train and how to ask them; a folder of cards, tables, charts and a page."""
