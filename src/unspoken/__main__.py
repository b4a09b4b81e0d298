"""The command line: `unspoken`, or `python -m unspoken`."""

from __future__ import annotations

import sys


def main() -> None:
    """Load the command line and run it; an interruption meanwhile ends it without a traceback."""
    try:
        from unspoken.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
