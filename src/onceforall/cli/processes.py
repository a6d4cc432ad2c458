"""The processes that a launcher started together, for the time of a command."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from onceforall.training.ranks import Ranks


@contextlib.contextmanager
def joined_processes(device: str = "") -> Iterator[tuple[Ranks, torch.device]]:
    """Join the other processes and leave them at the end; yield this one's rank and device.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``; this rank's GPU if there is one where empty.

    Raises:
        ConfigError: If there is no such device.
        TrainingError: If the others do not come in time.
    """
    from onceforall.errors import Interrupted
    from onceforall.job.machine import default_device, named_device
    from onceforall.training.ranks import (
        ranks_from_environment,
        start_process_group,
        stop_process_group,
    )

    ranks = ranks_from_environment(os.environ)
    where = named_device(device, ranks) if device else default_device(ranks)
    start_process_group(ranks, where)
    try:
        yield ranks, where
    except Interrupted:  # in training, on all ranks at one step
        stop_process_group(ranks)
        raise
    # Not after an error: it would wait for ranks that wait for this one, and never be told.
    stop_process_group(ranks)
