"""Memory that a step frees is there for the next one, without the kernel."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from clipft.train.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for step in range(20):
    if step == 10:  # the heap has settled
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [torch.zeros(5 * 2**20) for _ in range(8)]  # 20 MiB each, 5120 pages
    del activations
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(way: str) -> int:
    """Of ten like steps, in a process where glibc hands back all that is freed (by default that is luck)."""
    command = [sys.executable, "-c", STEPS, way]
    handing_back = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0"}
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=handing_back).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc is what is told")
def test_steps_of_one_size_take_no_new_pages_from_the_kernel():
    kept, handed_back = page_faults("kept"), page_faults("as it is")
    assert kept < 100
    assert handed_back > 5 * 100  # far more with pages of 4 KB; huge pages fault once in 2 MB
