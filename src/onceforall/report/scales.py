"""Axes: from numbers to places on a plot, and the ticks that a reader expects.

Places are percents of the plot's width or height, so a chart is drawn once and fits any screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

# From this ratio of largest to smallest on, a linear axis crowds the small ones.
_LOG_RATIO = 8.0
_LOG_STEPS: tuple[tuple[float, ...], ...] = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 3, 4, 5, 6, 7, 8, 9),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One axis.

    Attributes:
        low: Value at the start of the axis.
        high: Value at its end; larger than ``low``.
        log: Whether the axis is logarithmic; ``low`` is positive then.
        whole: Whether only whole numbers mean something on it; its ticks are whole then.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def position(self, value: float) -> float:
        """Return the place of ``value`` in percent: 0 at ``low``, 100 at ``high``."""
        if self.log:
            return 100 * math.log(value / self.low) / math.log(self.high / self.low)
        return 100 * (value - self.low) / (self.high - self.low)

    def contains(self, value: float) -> bool:
        """Return whether ``value`` lies on the axis."""
        return self.low <= value <= self.high

    @property
    def in_data(self) -> str:
        """Return the axis as the page's script reads it."""
        return f"{self.low:.8g},{self.high:.8g},{int(self.log)}"

    def held(self, value: float) -> float:
        """Return the value on the axis that is nearest to ``value``."""
        return min(max(value, self.low), self.high)

    @property
    def ticks(self) -> tuple[float, ...]:
        """Return about four to eight round values on the axis, ascending."""
        return _log_ticks(self) if self.log else _linear_ticks(self, 6)


def fit_scale(
    values: Iterable[float],
    *,
    may_be_log: bool = False,
    padding: float = 0.05,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Scale:
    """Return an axis that holds all values with some room at both ends.

    Args:
        values: Finite values, at least one.
        may_be_log: Take a logarithmic axis where all values are positive and span a wide range.
        padding: Room at each end, as a fraction of the span.
        limits: The axis does not go beyond these, unless a value does.
    """
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    if may_be_log and low > 0 and high / low >= _LOG_RATIO:
        room = (high / low) ** padding
        return Scale(low=low / room, high=high * room, log=True)
    room = padding * (high - low) or abs(high) * 0.1 or 1.0
    return Scale(
        low=min(low, max(low - room, limits[0])), high=max(high, min(high + room, limits[1]))
    )


def tick_labels(ticks: Sequence[float]) -> tuple[str, ...]:
    """Return the shortest labels that tell the ticks apart, all with the decimals they need."""
    exact = [f"{tick:.10g}" for tick in ticks]
    steps = {round(b - a, 12) for a, b in pairwise(ticks)}
    if len(steps) > 1:  # logarithmic: every label as short as it can be
        return tuple(exact)
    decimals = max((len(text.partition(".")[2]) for text in exact), default=0)
    return tuple(f"{tick:.{decimals}f}" for tick in ticks)


def _linear_ticks(scale: Scale, wanted: int) -> tuple[float, ...]:
    rough = (scale.high - scale.low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    if scale.whole:
        step = {2.5: 5.0}.get(step, max(step, 1.0))
    first = math.ceil(scale.low / step - 1e-9)
    last = math.floor(scale.high / step + 1e-9)
    # Rounding takes away 0.30000000000000004.
    decimals = max(0, 2 - math.floor(math.log10(step)))
    return tuple(round(i * step, decimals) + 0.0 for i in range(first, last + 1))


def _log_ticks(scale: Scale) -> tuple[float, ...]:
    first = math.floor(math.log10(scale.low))
    last = math.ceil(math.log10(scale.high))
    choices = [
        tuple(
            float(f"{m * 10.0**power:.6g}")
            for power in range(first, last + 1)
            for m in multiples
            if scale.contains(m * 10.0**power)
        )
        for multiples in _LOG_STEPS
    ]
    return next((ticks for ticks in choices if len(ticks) >= 4), choices[-1])
