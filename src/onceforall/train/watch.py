"""Watching the loss: divergence is noticed, and said in plain words."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class LossWatch:
    """Notice a loss that is not a number or falls back to chance.

    Chance is the entropy of a uniform guess, ``ln(num_classes)``. Training has collapsed when the
    smoothed loss of the leading subnet, once well below chance, is back at it.

    Attributes:
        num_classes: Number of classes.
        smoothed: Exponential moving average of the loss; a restart restores it.
        best: Lowest smoothed loss so far.
    """

    num_classes: int
    smoothed: float = math.nan
    best: float = math.inf

    def verdict(self, loss: float) -> str | None:
        """Take the newest loss; return what is wrong, or None."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        decay = 0.95
        self.smoothed = (
            loss if math.isnan(self.smoothed) else decay * self.smoothed + (1 - decay) * loss
        )
        self.best = min(self.best, self.smoothed)
        chance = math.log(self.num_classes)
        if self.best < 0.7 * chance and self.smoothed > 0.97 * chance:
            return f"the loss {self.smoothed:.3f} is back at chance ({chance:.3f})"
        return None
