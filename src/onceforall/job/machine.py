"""Facts about this machine and the packages on it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from onceforall.errors import ConfigError
from onceforall.training.ranks import Ranks

# Numbers of the options of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def default_device(ranks: Ranks | None = None) -> torch.device:
    """Return this rank's GPU if this machine has any, else the CPU.

    Raises:
        ConfigError: If there are more ranks than GPUs on this machine.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, count = _own_gpu(ranks or Ranks()), torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(
            f"rank {local_rank} of this machine has no GPU of its own: there are {count}; start "
            f"at most {count} processes on it"
        )
    return torch.device("cuda", local_rank)


def _own_gpu(ranks: Ranks) -> int:
    """Return the number of a rank's GPU; Slurm may show each task its own one only."""
    is_asked = any(name in os.environ for name in ("SLURM_GPUS_PER_TASK", "SLURM_GPU_BIND"))
    is_bound = is_asked and "SLURM_STEP_ID" in os.environ and torch.cuda.device_count() == 1
    return 0 if is_bound else ranks.local_rank


def named_device(name: str, ranks: Ranks) -> torch.device:
    """Return the device of a name; ``cuda`` is a GPU of its own for each rank of a machine.

    Raises:
        ConfigError: If it is none of ``cpu``, ``cuda`` and ``cuda:N``, there is no such GPU, or
            several ranks would share one.
    """
    kind, colon, number = name.partition(":")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or bool(colon) != number.isdecimal():
        raise ConfigError(f"--device {name!r} is not one of cpu, cuda, cuda:N")
    if colon and ranks.world_size > 1:
        raise ConfigError(f"--device {name} is one GPU for several processes: say cuda")
    index = int(number) if colon else _own_gpu(ranks)
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: there are {torch.cuda.device_count()} GPUs, none with number {index}"
        )
    return torch.device("cuda", index)


def hardware() -> dict[str, Any]:
    """Return what this machine is."""
    return {
        "system": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def keep_freed_memory() -> None:
    """Have this process keep the memory that tensors free, and use it again.

    By default the C library gives large blocks back to the system at once, and asks for them anew,
    page by page, in the next step: a training step on the CPU is 10 to 25 % longer for it. Only
    glibc has these settings; nothing happens elsewhere.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_MMAP_THRESHOLD, 32 * 2**20)  # the most that it takes
        set_option(_TRIM_THRESHOLD, 2**31 - 1)
        set_option(_TOP_PAD, 64 * 2**20)


def usable_cores() -> int:
    """Return the processor cores that this process may use, a container's quota considered."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    most, period = quota.read_text().split() if quota.is_file() else ("max", "1")
    return cores if most == "max" else max(1, min(cores, int(most) // int(period)))
