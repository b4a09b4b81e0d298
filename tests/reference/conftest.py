"""Says at the end of a run how near the numbers came."""

from __future__ import annotations

from typing import Any

import parity


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the largest relative errors against the authors' code."""
    if parity.WORST:
        worst = ", ".join(f"{kind} {error:.1e}" for kind, error in sorted(parity.WORST.items()))
        terminalreporter.write_line(f"parity, largest relative error (by norm): {worst}")
