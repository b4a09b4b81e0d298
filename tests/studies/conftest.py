"""The study that these tests plan, run and read."""

from support.small_study import small

__all__ = ["small"]
