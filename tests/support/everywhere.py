"""Fixtures of every room. tests/conftest.py names this file to the processes that run tests."""

from __future__ import annotations

import pytest
from support.quick_runs import files, make

from unspoken.core.fast.switch import FastConfig, using

__all__ = ["files", "make"]  # runs that train in a second


@pytest.fixture(scope="session", autouse=True)
def no_states_at_home():
    """No test keeps states of assistants in the user's home; trained runs have a config of their own."""
    with using(FastConfig(states=None)):
        yield
