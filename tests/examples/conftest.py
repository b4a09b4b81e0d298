"""What the contract's tests ask of a module that takes them over for a method of its own: a case and its method.

The module has a fixture `cell` that gives both.
"""

from __future__ import annotations

from typing import Any

import pytest
from contract.cases import Case


@pytest.fixture
def case(cell: tuple[Case, Any]) -> Case:
    """The case."""
    return cell[0]


@pytest.fixture
def method(cell: tuple[Case, Any]) -> Any:
    """Its method, shared: a test leaves it as it found it."""
    cell[1].zero_grad(set_to_none=True)
    return cell[1]
