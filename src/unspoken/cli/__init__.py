"""The command line. Each command is a few lines over the library; heavy imports happen inside, so `--help` is instant."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from unspoken.cli.options import app
from unspoken.errors import UnspokenError

from unspoken.cli import runs, answers, scores, controls, scale, stopping  # isort: skip  (the order of --help)
from unspoken.cli import inspect, harness, problems, bench, bench_inference  # isort: skip

__all__ = ["answers", "app", "bench", "bench_inference", "controls", "harness"]
__all__ += ["inspect", "main", "problems", "runs", "scale", "scores", "stopping"]


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning as one line, without source code; those meant for developers are left out."""
    if issubclass(category, UserWarning):
        print(f"warning: {message}", file=sys.stderr)


def main() -> None:
    """Entry point: an error that unspoken raises is one line on standard error, and its exit code."""
    warnings.showwarning = _warn
    try:
        app()
    except UnspokenError as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
