"""The matrix: every method on every family of backbones, its other configurations on one family each."""

from __future__ import annotations

from typing import Any

import pytest
from contract.cases import CASES, Case, families_of, shared

MATRIX = [(name, family) for name in CASES for family in families_of(name)]


@pytest.fixture(params=MATRIX, ids=[f"{name}-{family}" for name, family in MATRIX])
def cell(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(configuration, family)."""
    return request.param


@pytest.fixture
def case(cell: tuple[str, str]) -> Case:
    """The configuration."""
    return CASES[cell[0]]


@pytest.fixture
def method(cell: tuple[str, str]) -> Any:
    """Its method, shared: a test leaves it as it found it."""
    method = shared(*cell)
    method.zero_grad(set_to_none=True)
    return method
