"""Memory that a step frees is there for the next one: counted in page faults, in a process of its own. Large pages."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from unspoken.core.fast.malloc import in_large_pages

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


@pytest.mark.parametrize("shape", [(0, 3), (7, 3), (1000, 1100), (5, 1024, 1024)])
def test_large_pages_hold_a_tensor_like_any_other(shape: tuple[int, ...]):
    tensors = [in_large_pages(shape, torch.bfloat16).fill_(number) for number in (1, 2)]
    for number, tensor in enumerate(tensors, start=1):
        assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (shape, torch.bfloat16, True)
        assert (tensor == number).all()
        if tensor.nbytes > 2**21 and sys.platform.startswith("linux"):
            assert tensor.data_ptr() % 2**21 == 0
