"""What a search needs to know: genes, objectives to minimise, and limits.

Shape legend: ``N`` archs, ``G`` genes, ``M`` objectives, ``L`` limits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.encoding import Encoding, Rows
from onceforall.errors import ConfigError, InfeasibleError
from onceforall.search.moves import Moves

RowFunction = Callable[[Rows], NDArray[Any]]
Floats = NDArray[np.float64]

_MAX_DESCENT_STEPS = 200
# Descents from elsewhere than the smallest arch, before a limit is called infeasible.
_NUM_OTHER_STARTS = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A search problem on populations.

    Attributes:
        encoding: Encoding of the rows.
        objectives: What to minimise, by name: each maps canonical rows ``(N, G)`` to ``(N,)``.
        costs: Everything a limit may be set on, by name; the report of a point lists them all.
        limits: Upper bounds on costs; an arch that exceeds one is never returned.
        sources: What the numbers come from, such as the digests of a predictor and of a latency
            model by name; a journal is of one search with one set of them.

    Raises:
        ConfigError: If a limit is on no known cost or not a number, or there is no objective.
    """

    encoding: Encoding
    objectives: Mapping[str, RowFunction]
    costs: Mapping[str, RowFunction] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.objectives:
            raise ConfigError("a search needs at least one objective")
        for name, bound in self.limits.items():
            if name not in self.costs:
                raise ConfigError(f"limit {name!r} is not one of {', '.join(self.costs)}")
            if np.isnan(bound):
                raise ConfigError(f"limit {name}={bound} is not a number")

    def score(self, rows: Rows) -> Floats:
        """Return the objectives ``(N, M)``, in the order of their names."""
        columns = [np.asarray(f(rows), dtype=np.float64) for f in self.objectives.values()]
        return np.stack(columns, axis=1)

    def violation(self, rows: Rows) -> Floats:
        """Return by how much limits are exceeded, relative and summed, ``(N,)``; 0 is feasible.

        A cost that is not a number violates its limit infinitely.
        """
        total = np.zeros(len(rows))
        for name, bound in self.limits.items():
            cost = np.asarray(self.costs[name](rows), dtype=np.float64)
            excess = np.where(cost > bound, cost - bound, 0.0) / (abs(bound) or 1.0)
            total += np.where(np.isnan(cost), np.inf, excess)
        return total

    def feasible_row(self) -> Rows:
        """Return one row that keeps every limit, ``(1, G)``.

        Raises:
            InfeasibleError: With the smallest reachable value and the arch that reaches it, or
                with the limits that only conflict together.
        """
        row = self.encoding.smallest()
        if float(self.violation(row)[0]) == 0:
            return row
        row = descend(self.encoding, self.violation)
        if float(self.violation(row)[0]) == 0:
            return row
        for name, bound in self.limits.items():
            least = descend(self.encoding, self.costs[name])
            value = float(self.costs[name](least)[0])
            if not value <= bound:
                arch = self.encoding.to_archs(least)[0]
                raise InfeasibleError(
                    f"{name}={bound:g} cannot be kept: the smallest reachable value is "
                    f"{value:.6g}, by {arch}"
                )
        names, row = self._conflict(row)
        together = ", ".join(f"{name}={self.limits[name]:g}" for name in names)
        reached = ", ".join(f"{name}={float(self.costs[name](row)[0]):.6g}" for name in names)
        raise InfeasibleError(
            f"the limits {together} can each be kept, but not together: the nearest arch has "
            f"{reached}: {self.encoding.to_archs(row)[0]}"
        )

    def _conflict(self, row: Rows) -> tuple[tuple[str, ...], Rows]:
        """Return the fewest limits that conflict, and the row nearest to keeping them."""
        for count in range(2, len(self.limits)):
            for names in itertools.combinations(self.limits, count):
                part = replace(self, limits={name: self.limits[name] for name in names})
                nearest = descend(self.encoding, part.violation)
                if float(part.violation(nearest)[0]) > 0:
                    return names, nearest
        return tuple(self.limits), row


def cautious_error(
    predict: Callable[[Rows], tuple[NDArray[Any], NDArray[Any]]], *, num_stds: float
) -> RowFunction:
    """Return the error that a predictor's uncertainty leaves possible, to be minimised.

    Args:
        predict: Maps rows to the mean and standard deviation of top-1, each ``(N,)`` in [0, 1].
        num_stds: Standard deviations to subtract from the mean (the lower confidence bound);
            a negative number gives the hopeful upper bound.
    """

    def error(rows: Rows) -> NDArray[Any]:
        mean, std = predict(rows)
        return 1 - (np.asarray(mean) - num_stds * np.asarray(std))

    return error


def descend(encoding: Encoding, cost: RowFunction) -> Rows:
    """Return a row of least cost, as far as local descents find it, ``(1, G)``.

    Descents start at the smallest arch, the largest and a few fixed others; each step takes the
    best single move. For costs that are sums over blocks that is nearly always the true least.
    """
    moves = Moves(encoding)
    others = encoding.sample(_NUM_OTHER_STARTS, np.random.default_rng(0))
    best, least = encoding.smallest(), np.inf
    for start in (encoding.smallest(), *(row[None] for row in others), encoding.largest()):
        row, value = _descent(moves, start, cost)
        if value < least:
            best, least = row, value
    return best


def _descent(moves: Moves, row: Rows, cost: RowFunction) -> tuple[Rows, float]:
    value = _number(cost(row)[0])
    for _ in range(_MAX_DESCENT_STEPS):
        around, _ = moves.around(row[0])
        if not len(around):
            break
        costs = [_number(c) for c in cost(around)]
        best = int(np.argmin(costs))
        if not costs[best] < value:
            break
        row, value = around[best : best + 1], costs[best]
    return row, value


def _number(cost: Any) -> float:
    value = float(cost)
    return np.inf if np.isnan(value) else value
