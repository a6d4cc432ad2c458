"""Learning rate as a pure function of progress."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineSchedule:
    """Linear warm-up, then half a cosine down to zero.

    Attributes:
        peak: Learning rate at the end of the warm-up.
        warmup: Part of the progress spent warming up, in [0, 1).
        start: Learning rate that the warm-up starts from.
    """

    peak: float
    warmup: float = 0.0
    start: float = 0.0

    def __call__(self, progress: float) -> float:
        """Return the learning rate at ``progress`` in [0, 1), the share of steps already done."""
        if progress < self.warmup:
            return self.start + (self.peak - self.start) * progress / self.warmup
        rest = (progress - self.warmup) / (1 - self.warmup)
        return 0.5 * self.peak * (1 + math.cos(math.pi * min(rest, 1.0)))
