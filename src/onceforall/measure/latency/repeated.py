"""A latency with a spread that another measurement keeps to: measured again and again.

The samples of one measurement agree far better than two measurements do: each loads the networks
to other places in memory, and the machine changes its pace from minute to minute. So whole
measurements are repeated, each with fresh sessions, and the spread that is stated is theirs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from onceforall.measure.latency.candidate import Candidate
from onceforall.measure.latency.measure import Latency, measure_latency
from onceforall.measure.latency.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """The latency of one network in several rounds.

    Attributes:
        rounds: A whole measurement each, in order.
    """

    rounds: tuple[Latency, ...]

    @property
    def latency_ms(self) -> float:
        """Return the median of the rounds."""
        return statistics.median(each.latency_ms for each in self.rounds)

    @property
    def low_ms(self) -> float:
        """Return the fastest round."""
        return min(each.latency_ms for each in self.rounds)

    @property
    def high_ms(self) -> float:
        """Return the slowest round."""
        return max(each.latency_ms for each in self.rounds)

    @property
    def spread_ms(self) -> float:
        """Return half of what the rounds span, or the samples' own deviation if that is larger."""
        own = statistics.median(each.latency_mad_ms for each in self.rounds)
        return max(own, (self.high_ms - self.low_ms) / 2)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        first = self.rounds[0]
        return {
            "model": first.name,
            "latency_ms": self.latency_ms,
            "spread_ms": self.spread_ms,
            "rounds_ms": [each.latency_ms for each in self.rounds],
            "resolution": first.resolution,
            "target": first.target,
            "threads": first.threads,
            "device": first.hardware.device,
            "runtime": first.hardware.runtime,
        }


def measure_repeatedly(
    candidates: Sequence[Candidate],
    *,
    target: Target,
    rounds: int = 5,
    repeats: int = 20,
    sentinel_ms: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Repeated]:
    """Measure networks side by side in several rounds.

    Args:
        candidates: Networks; in each round their samples are taken in turns.
        target: Runtime and device.
        rounds: Whole measurements, each with fresh sessions; at least 1.
        repeats: Samples of each network in a round.
        sentinel_ms: Scale all rounds to a machine on which the sentinel takes this long; None for
            what it takes in each of them.
        progress: Told the rounds done and of all.

    Returns:
        One record for each candidate, in the same order.

    Raises:
        MeasurementError: If a candidate cannot be loaded or run on the target.
        MissingExtraError: If the target's runtime is not installed.
    """
    found = []
    for number in range(rounds):
        progress(number, rounds)
        found.append(
            measure_latency(
                candidates,
                target=target,
                repeats=repeats,
                sentinel_ms=sentinel_ms,
                seed=number,
            )
        )
    progress(rounds, rounds)
    return [Repeated(rounds=each) for each in zip(*found, strict=True)]
