"""What people look at: HTML pages and SVG charts. Imports evaluation and inspector; computes nothing."""
