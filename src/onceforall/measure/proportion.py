"""Shares that were counted: what a top-1 accuracy on so many images can and cannot tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onceforall.errors import MeasurementError

_Z_95 = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share that was counted, such as the top-1 accuracy on some images.

    Attributes:
        value: In [0, 1].
        count: What it was counted on, at least 1.
    """

    value: float
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1 or self.count < 1:
            raise MeasurementError(f"{self.value} of {self.count} is no share of at least 1")

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the true share, inside [0, 1].

        Source: Wilson, *Probable inference, the law of succession, and statistical inference*,
        JASA 1927: the score interval.
        """
        scale = 1 / (1 + _Z_95**2 / self.count)
        centre = scale * (self.value + _Z_95**2 / (2 * self.count))
        spread = self.value * (1 - self.value) / self.count + _Z_95**2 / (4 * self.count**2)
        half = scale * _Z_95 * math.sqrt(spread)
        # At the ends the bound is the share itself, whatever rounding says.
        low = 0.0 if self.value == 0 else max(0.0, centre - half)
        high = 1.0 if self.value == 1 else min(1.0, centre + half)
        return low, high

    @property
    def half_width(self) -> float:
        """Return half the width of the 95 % interval: what stands behind the ``+-``."""
        low, high = self.interval
        return (high - low) / 2

    def in_percent(self) -> str:
        """Return for example ``98.3 +- 1.4 %``, no finer than the interval justifies.

        The half width has two significant digits up to 3.55, then one, and the share as many
        decimals. Source: Particle Data Group, *Review of Particle Physics*, introduction, section
        5.3 (rounding).
        """
        half = 100 * self.half_width
        decimals = max(0, -math.floor(math.log10(half / 3.55)))
        return f"{100 * self.value:.{decimals}f} +- {half:.{decimals}f} %"


def difference_interval(first: Share, second: Share) -> tuple[float, float]:
    """Return the 95 % interval of ``first - second``, inside [-1, 1].

    It is that of shares counted on different images. Networks compared here are tested on the
    same images and mostly fail on the same ones, which makes the true interval narrower: a
    difference that is outside the noise by this interval is outside it.

    Source: Newcombe, *Interval estimation for the difference between independent proportions*,
    Statistics in Medicine 1998, method 10 (Wilson intervals, no continuity correction).
    """
    difference = first.value - second.value
    (low1, high1), (low2, high2) = first.interval, second.interval
    below = math.hypot(first.value - low1, high2 - second.value)
    above = math.hypot(high1 - first.value, second.value - low2)
    return difference - below, difference + above


def is_clearly_above(first: Share, second: Share) -> bool:
    """Say whether ``first`` is above ``second`` by more than the noise of counting."""
    return difference_interval(first, second)[0] > 0
