"""Runs that train in a second."""

from quick_runs import files, make

__all__ = ["files", "make"]
