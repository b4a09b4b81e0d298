"""What is written about a run, and under which names: reports, pages, charts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from unspoken.core.lm.loading import BUILTIN, builtin


class Places:
    """A run's folder, and where things about the run go.

    Args:
        path: the folder, or a model inside the package ("builtin:tiny").
    """

    def __init__(self, path: str | Path) -> None:
        self.inside = str(path).startswith(BUILTIN)
        self.name = Path(path).name
        self.path = builtin(str(path)) if self.inside else Path(path)

    def place(self, name: str, ending: str = "", **changed: Any) -> Path:
        """Where something goes. A model inside the package takes nothing in: it goes where the command runs.

        Args:
            name: what it is.
            ending: of the file's name.
            changed: settings other than the run's own; they stand in the name.
        """
        settings = {key: re.sub(r"[^\w.]+", "-", str(value)) for key, value in changed.items()}
        short = name + "".join(f"-{key}-{value}" for key, value in settings.items()) + ending
        return Path(f"{self.name.replace(':', '-')}-{short}") if self.inside else self.path / short

    def report_path(self, task: str, split: str, **changed: Any) -> Path:
        """Where the report of an evaluation goes; `compare` reads the one with no changed settings."""
        plainly = re.sub(r"[^\w.-]+", "-", task)  # "module:Class" is a name of tasks, but none of files
        return self.place(f"eval-{plainly}-{split}", ".json", **changed)

    def reports(self, *, whole: bool = False) -> list[Path]:
        """The reports in the run's folder.

        Args:
            whole: only those of a whole test split with the run's own settings.
        """
        return sorted(self.path.glob("eval-*-test.json" if whole else "eval-*.json"))
