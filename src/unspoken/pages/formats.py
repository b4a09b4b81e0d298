"""Write tables to files in the format of the name's suffix; a suffix that is none for tables, or for charts, is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from unspoken.core.files import write_text
from unspoken.core.text.markup import cell
from unspoken.core.text.table import Table
from unspoken.errors import ConfigError
from unspoken.pages.drawing import check_formats

TABLES = (".md", ".tex", ".csv", ".json")
CHARTS = (".svg", ".pdf", ".png")

Named = Mapping[str, Sequence[Table]]
"""Heading -> tables; "" = no heading."""


def check_table(path: Path | None, option: str) -> None:
    """Check, before anything is computed, that a file's suffix is one for tables.

    Raises:
        ConfigError: it is not; lists the suffixes.
    """
    _check(path, option, "tables", TABLES)


def check_chart(path: Path | None, option: str) -> None:
    """The same for charts.

    Raises:
        ConfigError: it is not, or the library that draws it is missing.
    """
    _check(path, option, "charts", CHARTS)
    if path is not None:
        check_formats([path.suffix])


def _check(path: Path | None, option: str, what: str, known: Sequence[str]) -> None:
    if path is not None and path.suffix.lower() not in known:
        raise ConfigError(f"{option} {path}: {what} are written as {', '.join(known)}; give a name that ends in one of them")


def write_tables(path: Path, tables: Named, *, as_json: str, as_csv: str) -> None:
    """Write tables in the format of the name's suffix.

    Args:
        path: the file.
        tables: for Markdown and LaTeX.
        as_json, as_csv: the same figures for programs.
    """
    text = {".md": markdown, ".tex": latex}.get(path.suffix.lower())
    write_text(path, text(tables) if text else as_json if path.suffix.lower() == ".json" else as_csv)


def markdown(tables: Named) -> str:
    """Tables as Markdown, under their headings."""
    return "\n".join(
        (f"## {cell(name)}\n\n" if name else "") + "\n".join(one.markdown() for one in some) for name, some in tables.items()
    )


def latex(tables: Named) -> str:
    """Tables as LaTeX, with their headings as comments."""
    return "\n".join(
        (f"% {' '.join(name.split())}\n" if name else "") + "\n".join(one.latex() for one in some)
        for name, some in tables.items()
    )
