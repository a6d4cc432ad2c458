"""Learning rate as a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineSchedule:
    """Linear warm-up to the peak, then half a cosine down to zero.

    Attributes:
        peak: Learning rate of the last warm-up step, and of the first one after it.
        steps: Steps in all; at least 1.
        warmup_steps: Steps of warm-up among them.
        start: Learning rate that the warm-up starts from, before its first step.
        part: Share of the half cosine where the steps after the warm-up begin, and where they
            end: several phases may share one cosine.

    Source: the published Once-for-All schedule.
    """

    peak: float
    steps: int
    warmup_steps: int = 0
    start: float = 0.0
    part: tuple[float, float] = (0.0, 1.0)

    def __call__(self, step: float) -> float:
        """Return the learning rate of ``step``, from 0; parts of steps are allowed."""
        if step < self.warmup_steps:
            share = min(1.0, (step + 1) / self.warmup_steps)
            return self.start + (self.peak - self.start) * share
        rest = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        begin, end = self.part
        place = begin + (end - begin) * min(rest, 1.0)
        return 0.5 * self.peak * (1 + math.cos(math.pi * place))
