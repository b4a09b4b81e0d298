"""Dataclasses stored as JSON files: description and figures first, then records, one per line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Self

from unspoken.core.config import STRICT, build, dump
from unspoken.core.files import lines_json, parse_json, write_text
from unspoken.errors import ConfigError, RunError


class Stored:
    """A frozen dataclass that can be saved and loaded. It has a field `format`, whose default is the format it reads.

    Attributes:
        KIND: what a file holds, for messages.
        MADE_BY: the command that makes one.
        ROWS: names of lists, at any depth, written with one line per entry.
        PARTS: fields that hold another stored class.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    KIND: ClassVar[str]
    MADE_BY: ClassVar[str]
    ROWS: ClassVar[tuple[str, ...]] = ("records",)
    PARTS: ClassVar[tuple[str, ...]] = ()
    format: Any

    def summary(self) -> dict[str, Any] | None:
        """Figures for human readers of the file; they are recomputed when it is loaded."""
        return None

    def check(self, path: str | Path) -> None:
        """Refuse a file with invalid values.

        Raises:
            RunError: says what is wrong.
        """

    def to_json(self) -> str:
        """As JSON text: the summary, and the fields that `from_json` reads."""
        return lines_json(self._entries(), self.ROWS)

    def _entries(self) -> dict[str, Any]:
        summary = self.summary()
        fields: Any = self
        names = sorted((f.name for f in dataclasses.fields(fields) if f.name != "format"), key=self._is_long)
        about = {"format": self.format} | ({} if summary is None else {"summary": summary})
        return about | {n: getattr(self, n)._entries() if n in self.PARTS else dump(getattr(self, n)) for n in names}

    def _is_long(self, name: str) -> bool:
        return name in self.ROWS or name in self.PARTS

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file atomically.

        Raises:
            RunError: the file cannot be written; an old one is unchanged.
        """
        write_text(path, self.to_json())

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            RunError: the file is missing, damaged, of another kind, or of another format.
        """
        made = f"`unspoken {cls.MADE_BY}`"
        try:
            data = parse_json(Path(path).read_bytes())
        except OSError as error:
            raise RunError(f"{path}: cannot read the {cls.KIND} ({error.strerror}); {made} makes one") from None
        except ValueError as error:
            raise RunError(f"{path}: not a {cls.KIND}, or cut off: {error}; make it again with {made}") from None
        parts: list[Any] = [data.get(name) for name in cls.PARTS] if isinstance(data, dict) else []
        if not isinstance(data, dict) or data.get("format") != cls.format or not all(isinstance(p, dict) for p in parts):
            got = f"format {data.get('format')!r}" if isinstance(data, dict) else type(data).__name__
            raise RunError(f"{path}: expected a {cls.KIND} of format {cls.format!r}, got {got}; {made} makes one")
        for part in (data, *parts):
            part.pop("summary", None)
        try:
            found = build(cls, data, where=f"{path}: ")
        except ConfigError as error:
            raise RunError(str(error)) from None
        found.check(path)
        return found
