"""Tests with a real vLLM run in an environment of their own (`make test-vllm`); without vLLM they are not collected."""

from __future__ import annotations

import os
from importlib.util import find_spec

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # two engines side by side would sit on the same core

found = find_spec("vllm")  # this folder itself, where vLLM is not installed
collect_ignore_glob = [] if found is not None and found.origin is not None else ["test_*.py"]
