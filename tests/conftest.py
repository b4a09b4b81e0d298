"""Tiny models are fastest on one thread, and the machine may be shared. Set before torch is imported."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
