"""A run directory's files and their names. Reads no weights and does not load torch."""

from __future__ import annotations

import os
import re
import shutil
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from unspoken.core.builtin import BUILTIN, builtin
from unspoken.core.files import parse_json, read_object, reason
from unspoken.errors import RunError
from unspoken.runs.earlier import updated
from unspoken.runs.hub import fetched, hub_run, is_on_hub

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


TRACKERS = "trackers.json"
"""What each tracker of the training calls the run, in its folder."""


class Places:
    """A run's folder, and the places of its reports and other files.

    Args:
        path: the folder, a model in the package ("builtin:tiny"), or one on the Hub ("hf://owner/name"), which is fetched.
        here: put new files into the current folder: the model is somebody else's. So it is for models in the package and
            on the Hub.

    Attributes:
        given: the path as it was given, of a run on the Hub with both slashes.
        inside: it is a model in the package or on the Hub, whose folder is not to be written to.
    """

    def __init__(self, path: str | Path, here: bool = False) -> None:
        self.inside = str(path).startswith(BUILTIN) or is_on_hub(path)
        self.here = here or self.inside
        self.given = str(path)
        if is_on_hub(path):
            run = hub_run(path)
            self.given, self.name, self.path = str(run), run.name, fetched(run)
            return
        self.name = Path(path).name if Path(path).name not in ("", "..") else Path(path).resolve().name
        self.path = builtin(str(path)) if self.inside else Path(path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.given!r})"

    def place(self, name: str, ending: str = "", **changed: object) -> Path:
        """The path for a file about the run, in its folder or in the current one (`here`).

        Args:
            name: the first part of the file's name.
            ending: the end of the file's name.
            changed: settings that differ from the run's own; they become part of the name.
        """
        settings = {key: re.sub(r"[^\w.]+", "-", str(value)) for key, value in changed.items()}
        short = name + "".join(f"-{key}-{value}" for key, value in settings.items()) + ending
        return Path(f"{self.name.replace(':', '-')}-{short}") if self.here else self.path / short

    def report_path(self, task: str, split: str, **changed: object) -> Path:
        """The path of an evaluation's report; `compare` reads the one without changed settings."""
        plainly = re.sub(r"[^\w.-]+", "-", task)  # "module:Class" is a name of tasks, but none of files
        return self.place(f"eval-{plainly}-{split}", ".json", **changed)

    def reports(self, *, whole: bool = False) -> list[Path]:
        """The reports in the run's folder.

        Args:
            whole: only reports of a whole test split with the run's own settings.
        """
        return sorted(self.path.glob("eval-*-test.json" if whole else "eval-*.json"))

    # what lies in it

    @property
    def exists(self) -> bool:
        """Whether there is a run."""
        return os.path.isfile(self.path / "run.json")  # also where the name is too long, or the place cannot be seen

    def read(self) -> dict[str, Any]:
        """run.json as a dict, with its config converted to this version.

        Raises:
            RunError: it is missing or damaged.
        """
        file = self.path / "run.json"
        try:
            data = read_object(file)
            for name, kind in (("id", str), ("config", dict)):
                if not isinstance(data.get(name), kind):
                    raise ValueError(f"{name!r} is missing or of another type")
            data["config"] = updated(data["config"])
        except (FileNotFoundError, NotADirectoryError):
            hint = "give a folder that `unspoken train` wrote"
            if not self.path.exists():
                raise RunError(f"{self.path}: no such folder; {hint}{self._near()}") from None
            if not self.path.is_dir():
                raise RunError(f"{self.path} is no run directory but a file; {hint}") from None
            if (self.path / "config.json").is_file():
                hint = "it is a Hugging Face folder: `unspoken eval` takes it with --task, or train from it (backbone.path)"
            raise RunError(f"{self.path} is no run directory: it has no run.json; {hint}") from None
        except OSError as error:
            raise RunError(f"{file!s:.200} cannot be read: {reason(error)[0]}; give another folder, or mend this") from error
        except ValueError as error:
            raise RunError(f"{file} is truncated or broken ({error}); take another copy of the run") from error
        return data

    def _near(self) -> str:
        """Suggest runs nearby for a folder that does not exist, as the end of a message."""
        found = [file.parent.as_posix() for folder in {self.path.parent, Path("runs")} for file in folder.glob("*/run.json")]
        names = {name: name.rpartition("/")[2] for name in found}
        near = [name for name in sorted(names) if names[name] in get_close_matches(self.name, names.values(), cutoff=0.6)]
        return f"; did you mean {' or '.join(near[:3])}?" if near else ""

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl. Invalid lines, as left by a kill or a full disk, are dropped."""
        file = self.path / "metrics.jsonl"
        try:
            lines = file.read_bytes().split(b"\n") if file.is_file() else []
        except OSError as error:
            raise RunError(f"{file} cannot be read: {reason(error)[0]}") from error
        return [row for line in lines if (row := _row(line)) is not None]

    def _states(self) -> list[Path]:
        found = (self.path / "state").glob("step-*")
        return sorted(folder for folder in found if folder.name.removeprefix("step-").isdecimal())

    def drop_states(self) -> None:
        """Remove all states: a finished run stays finished, any other begins anew."""
        shutil.rmtree(self.path / "state", ignore_errors=True)

    @property
    def finished(self) -> bool:
        """Whether a run is here, and trained to its end.

        Raises:
            RunError: its run.json is damaged.
        """
        return self.exists and "finished" in self.read()

    def latest_step(self) -> int | None:
        """The step of the newest state, or None."""
        states = self._states()
        return int(states[-1].name.removeprefix("step-")) if states else None


def is_plain(path: str | Path) -> bool:
    """Whether a path is that of a plain Hugging Face model, no run: a folder with its config, or the id of one on the hub.

    "org/name" is an id unless there is a folder "org", where it would be a mistyped path.
    """
    folder = Path(path)
    if str(path).startswith(BUILTIN) or is_on_hub(path) or os.path.isfile(folder / "run.json"):
        return False
    if os.path.isdir(folder):
        return any(os.path.isfile(folder / name) for name in ("config.json", "adapter_config.json"))
    return _HUB_ID.fullmatch(str(path)) is not None and not os.path.lexists(folder) and not folder.parent.is_dir()


def _row(line: bytes) -> dict[str, Any] | None:
    """A row of metrics.jsonl, or None for an invalid line."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    fits = isinstance(row, dict) and type(row.get("step")) is int and isinstance(row.get("kind"), str)
    return row if fits else None
