"""Tiny models are fastest on one thread, and the machine may be shared. Set before torch is imported."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

gc.disable()  # until the tests are collected: half a million objects are made, and all of them stay


def pytest_configure(config: pytest.Config) -> None:
    """Fixtures import torch and transformers; pytest-xdist's controller runs no test and needs neither."""
    hands_out = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if not hands_out:
        config.pluginmanager.import_plugin("support.everywhere")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, in one piece each, since fixtures are shared inside them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What was imported and collected is not looked through again and again for garbage while tests run."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
