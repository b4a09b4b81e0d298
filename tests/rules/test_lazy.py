"""`import unspoken` is cheap: torch comes when it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "accelerate", "peft", "datasets", "matplotlib")


@pytest.mark.parametrize("module", ["unspoken", "unspoken.errors", "unspoken.methods", "unspoken.tasks"])
def test_nothing_heavy_is_imported(module: str):
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
