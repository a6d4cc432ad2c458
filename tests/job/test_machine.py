"""What a process asks of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_COUNT_FAULTS = """
import resource, torch
from onceforall.job.machine import keep_freed_memory
if {kept}:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():  # what a step does: some large tensors, all free again at its end
    tensors = [torch.ones(number * 2**18) for number in (4, 8, 16, 24)]
    return sum(float(tensor[-1]) for tensor in tensors)
for _ in range(3):
    use()
start = faults()
for _ in range(5):
    assert use() == 4
print(faults() - start)
"""


def _faults(*, kept: bool) -> int:
    code = _COUNT_FAULTS.format(kept=kept)
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the settings")
def test_memory_that_was_freed_is_used_again() -> None:
    assert _faults(kept=True) < 100 < 1000 < _faults(kept=False)
