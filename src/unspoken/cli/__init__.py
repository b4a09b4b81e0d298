"""The command line, a file per command. Each is a few lines over the library; what is heavy is imported inside, so that
`--help` is instant."""

from __future__ import annotations

import codecs
import importlib
import io
import os
import sys
import warnings
from typing import Any, NoReturn

from unspoken.cli._options import app, group_help, main_process
from unspoken.errors import UnspokenError

PANELS = {
    "See it": ("ask", "demo", "quickstart"),
    "Train": ("train", "study", "import_", "probe", "learn_steps", "learn_stop"),
    "Measure": ("eval", "controls", "scale", "compare", "rescore", "card", "verify", "lm_eval"),
    "Look inside": ("inspect",),
    "Hand over": ("export", "push", "serve"),
    "Data": ("data", "annotate", "condense"),
    "What there is": ("list", "show", "runs", "clean", "doctor"),
    "Speed": ("bench_generate", "bench_serve", "bench_serve_offline"),
}
"""The files of the commands under the headings of --help, in its order. Each holds the command of its name."""

COMMANDS = tuple(name for names in PANELS.values() for name in names)

for _name in COMMANDS:
    importlib.import_module(f"unspoken.cli.{_name}")

group_help(app, PANELS)


def _warn(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """A warning as one line, without source code; those meant for developers are left out."""
    if issubclass(category, UserWarning) and main_process():
        print(f"warning: {message}", file=sys.stderr)


def main() -> None:
    """Entry point: whatever is wrong with what was asked is one line on standard error, and exit code 2."""
    _streams()
    warnings.showwarning = _warn
    try:
        code = app(standalone_mode=False)
    except UnspokenError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:  # a place that cannot be read or written, wherever it was met
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}; give another place, or make room for it")
    except MemoryError:
        _fail("not enough memory; ask for less at a time: a smaller batch, fewer latents, samples or problems")
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _misused(error)
    else:
        if isinstance(code, int) and code:  # an exit code that a command asked for, 130 where it was interrupted
            sys.exit(code)


def _fail(message: str, code: int = 2) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _misused(error: Any) -> NoReturn:
    """An option that does not exist, or a value of another type than it takes."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(error.exit_code)
    where = f"; see `{context.command_path} --help`" if context is not None else ""
    _fail(f"{error.format_message().rstrip('.')}{where}", error.exit_code)


def _streams() -> None:
    """Standard streams that are closed lead nowhere, and what an encoding cannot write is written in plainer signs.

    A file opened later would take a closed stream's place, and get what is said there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plainly")


_PLAINER = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),  # hyphens, dashes, minus
    **dict.fromkeys("\u2018\u2019", "'"),
    **dict.fromkeys("\u201c\u201d", '"'),
    **dict.fromkeys("\u2022\u00b7", "*"),
    "\u2026": "...",
    "\u00d7": "x",
    "\u00b1": "+-",
    "\u2260": "!=",
    "\u2248": "~",
    "\u2264": "<=",
    "\u2265": ">=",
    "\u2192": "->",
    "\u2190": "<-",
    "\u2020": "(+)",
    "\u00a0": " ",
    "\u202f": " ",
    "\u2713": "ok",
}
"""Signs of ours that code pages of Windows (cp1252, cp437) or plain ASCII lack, and what stands for them there."""


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: plainer signs, and a character's number where there is none."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_PLAINER.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lost), error.end


codecs.register_error("plainly", _plainly)
