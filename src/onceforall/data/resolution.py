"""The image size of each training batch, as the published loader draws it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from onceforall.errors import ConfigError

PUBLISHED_STEP_PX = 4


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
