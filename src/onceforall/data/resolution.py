"""The image size of each training batch, drawn by name and never from a global generator."""

from __future__ import annotations

import random
from collections.abc import Sequence

from onceforall.data.seeding import private_random
from onceforall.errors import ConfigError

PUBLISHED_STEP_PX = 4


def sample_resolution(resolutions: Sequence[int], *, seed: int, epoch: int, step: int) -> int:
    """Return one of ``resolutions``, uniform, as a pure function of (seed, epoch, step).

    Args:
        resolutions: Sizes in pixels to choose from; at least one.
        seed: Seed of the run.
        epoch: Epoch from 0.
        step: Step of the epoch from 0.

    Raises:
        ConfigError: If there is nothing to choose from.
    """
    _check(resolutions)
    return private_random("resolution", seed, epoch, step).choice(list(resolutions))


def published_resolution(resolutions: Sequence[int], *, epoch: int, step: int) -> int:
    """Return the size that the published loader draws for batch ``step`` of ``epoch``.

    It seeds Python's generator with the digits of the batch followed by the epoch in three
    digits. For the published continuous range pass `continuous_resolutions`.

    Raises:
        ConfigError: If there is nothing to choose from.
    """
    _check(resolutions)
    return random.Random(int(f"{step:d}{epoch:03d}")).choices(list(resolutions))[0]


def continuous_resolutions(smallest: int, largest: int) -> tuple[int, ...]:
    """Return every multiple of 4 from ``smallest`` to ``largest``, both included."""
    first = -(-smallest // PUBLISHED_STEP_PX) * PUBLISHED_STEP_PX
    return tuple(range(first, largest + 1, PUBLISHED_STEP_PX))


def _check(resolutions: Sequence[int]) -> None:
    if not resolutions:
        raise ConfigError("resolutions is empty: at least one size in pixels is needed")
