"""HTML pages and charts of results. Imports evaluation and inspector; computes nothing."""
