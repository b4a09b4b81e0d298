"""Tiny models are fastest on one thread, and the machine may be shared. Set before torch is imported."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from support.quick_runs import files, make

from unspoken.core.fast.switch import FastConfig, using

__all__ = ["files", "make"]  # fixtures of every room: runs that train in a second


@pytest.fixture(scope="session", autouse=True)
def no_states_at_home():
    """No test keeps states of assistants in the user's home; trained runs have a config of their own."""
    with using(FastConfig(states=None)):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, in one piece each, since fixtures are shared inside them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
