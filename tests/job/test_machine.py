"""What a process asks of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_COUNT_FAULTS = """
import resource, torch
import onceforall as ofa
from onceforall.job.machine import keep_freed_memory
if {kept}:
    keep_freed_memory()
torch.set_num_threads(1)
net = ofa.OFANet().net.train()
images = torch.randn(32, 3, 32, 32).to(memory_format=torch.channels_last)
def count():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    net(images, net.space.largest).square().mean().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
print(min([count() for _ in range(8)][3:]))
"""


def _faults(*, kept: bool) -> int:
    code = _COUNT_FAULTS.format(kept=kept)
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the settings")
def test_memory_that_was_freed_is_used_again() -> None:
    assert _faults(kept=True) < 200 < _faults(kept=False)
