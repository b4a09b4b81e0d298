"""Says at the end of a run how near the numbers came."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from support.parity import cases

from unspoken.core.fast import shared_gradients, switch


@pytest.fixture(autouse=True, scope="module")
def _plainly() -> Iterator[None]:
    """The numbers are those of the plain path, unless UNSPOKEN_FAST=1 asks for the shortcuts (docs/decisions/022).

    Per module: a process that runs tests of other rooms afterwards must not be left on the plain path.
    """
    with switch.using(switch.FastConfig(states=None) if os.environ.get(switch.VARIABLE) == "1" else switch.PLAIN):
        yield


@pytest.fixture(autouse=True, scope="module")
def _as_large_models_train():
    """The cases' matrices are small; their gradients are made the way that large ones' are
    (`core/fast/shared_gradients.py`).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_gradients, "LEAST", 1)
        yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the largest relative errors against the authors' code."""
    if cases.WORST:
        worst = ", ".join(f"{kind} {error:.1e}" for kind, error in sorted(cases.WORST.items()))
        terminalreporter.write_line(f"parity, largest relative error (by norm): {worst}")
