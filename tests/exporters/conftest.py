"""Runs that train in a second."""

from support.quick_runs import files, make

__all__ = ["files", "make"]
