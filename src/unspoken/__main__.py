"""`python -m unspoken` is the command line."""

from unspoken.cli import main

main()
