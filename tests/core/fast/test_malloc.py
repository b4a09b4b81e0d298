"""Memory that a step frees is there for the next one: counted in page faults, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from unspoken.core.fast.malloc import keeping_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        blocks = [torch.ones(15_000_000) for _ in range(3)]  # 60 MB each: beyond what glibc keeps by itself
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
plain = faults()
with keeping_freed("cpu") as kept:
    faults()
    inside = faults()
with keeping_freed("cuda") as other:
    outside = faults()
print(int(kept), int(other), plain, inside, outside)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_kept_inside_and_given_back_after():
    said = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=120).stdout
    kept, other, plain, inside, outside = map(int, said.split())
    if not kept:
        pytest.skip("this libc is not glibc")
    assert not other
    assert inside * 20 < plain
    assert inside * 20 < outside
