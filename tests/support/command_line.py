"""The command line in this process: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from unspoken.cli import main

START = "builtin:tiny"
FAST = [
    "train.steps=3", "train.validate_limit=2", "train.threads=1", "task.train_size=40", "task.validation_size=4",
    "task.test_size=60", "speaking.max_new_tokens=8",
]  # fmt: skip


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def unspoken(*words: str | Path, cwd: Path | None = None) -> Done:
    """Run a command in this process (a new one costs seconds of imports; `test_exit_code_of_the_real_command` takes one)."""
    out, err, here, argv = io.StringIO(), io.StringIO(), Path.cwd(), sys.argv
    sys.argv = ["unspoken", *map(str, words)]
    code = 0
    try:
        os.chdir(cwd or here)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as done:
        code = int(done.code or 0)
    finally:
        os.chdir(here)
        sys.argv = argv
    return Done(code, out.getvalue(), err.getvalue())


def said(*words: str | Path) -> tuple[int, str, str]:
    """The same as exit code, standard output and standard error."""
    done = unspoken(*words)
    return done.returncode, done.stdout, done.stderr


def refused(done: Done, *parts: str) -> None:
    """One line on standard error, exit code 2, and what it must say."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for part in ("error: ", *parts):
        assert part in lines[0], lines[0]
