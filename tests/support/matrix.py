"""The contract's tests, for methods that are not ours."""

from __future__ import annotations

from typing import Any

from contract import test_contract


def matrix_tests() -> dict[str, Any]:
    """All that a cell is asked, by name; not the test that takes the names of our own cases."""
    found = {name: test for name, test in vars(test_contract).items() if name.startswith("test_")}
    del found["test_config_round_trips_through_json"]
    return found
