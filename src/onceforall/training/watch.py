"""Watching the loss: divergence is noticed, and said in plain words."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Steps before a loss is judged: a single batch may be lucky.
_MIN_STEPS = 20
# Of chance: how low a loss was once, how high a collapse is, and a loss that may be going there.
_LEARNED, _COLLAPSED, _DOUBTFUL = 0.7, 0.97, 0.9
# What a step counts at most, in multiples of chance: a single batch may be hopeless, too.
_MAX_CHANCES = 1.5


@dataclass(slots=True)
class LossWatch:
    """Notice a label loss that is not a number or falls back to chance.

    Chance is the entropy of a uniform guess, ``ln(num_classes)``, with smoothed labels as well.
    Training has collapsed when the smoothed loss of the leading subnet, once well below chance,
    is back at it. A loss towards a teacher has another scale and does not belong here.

    Attributes:
        num_classes: Number of classes.
        smoothed: Moving average of the loss: the plain mean of the first steps, then exponential.
        best: Lowest smoothed loss so far, of at least 20 steps.
        steps: Losses taken.
        recent: Moving average over a few steps.
    """

    num_classes: int
    smoothed: float = math.nan
    best: float = math.inf
    steps: int = 0
    recent: float = math.nan

    @property
    def is_doubtful(self) -> bool:
        """Return whether the latest losses are those of a network that has forgotten all."""
        chance = math.log(self.num_classes)
        return self.best < _LEARNED * chance and self.recent > _DOUBTFUL * chance

    def verdict(self, loss: float) -> str | None:
        """Take the newest label loss; return what is wrong, or None."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        chance = math.log(self.num_classes)
        loss = min(loss, _MAX_CHANCES * chance)
        newest = max(0.05, 1 / (self.steps + 1))
        self.smoothed = loss if self.steps == 0 else self.smoothed + newest * (loss - self.smoothed)
        self.recent = loss if self.steps == 0 else 0.7 * self.recent + 0.3 * loss
        self.steps += 1
        if self.steps < _MIN_STEPS:
            return None
        self.best = min(self.best, self.smoothed)
        if self.best < _LEARNED * chance and self.smoothed > _COLLAPSED * chance:
            return f"the loss {self.smoothed:.3f} is back at chance ({chance:.3f})"
        return None

    def state(self) -> tuple[float, float, int, float]:
        """Return what a restart gives back, after the number of classes."""
        return self.smoothed, self.best, self.steps, self.recent
