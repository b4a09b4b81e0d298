"""Where commands print. Imported when there is something to print: rich takes its time."""

from __future__ import annotations

from typing import Any

from rich.console import Console


class Terminal(Console):
    """Prints text as it is: names, paths and questions may hold what rich takes for its own marks. Tables escape it."""

    def print(self, *objects: Any, **how: Any) -> None:
        """See `Console.print`."""
        if all(isinstance(o, str) for o in objects):
            how.setdefault("markup", False)
        super().print(*objects, **how)

    def say(self, line: str) -> None:
        """Print a line in one colour, not broken where the terminal ends."""
        self.print(line, highlight=False, soft_wrap=True)
