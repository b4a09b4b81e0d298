"""Real data, where a checkout has it beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of benchmark files, or a skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no benchmark data: {SHARED_DATA} is not there")
    return SHARED_DATA
