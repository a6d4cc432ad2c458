"""What a search needs to know: genes, objectives to minimise, and limits.

Shape legend: ``N`` archs, ``G`` genes, ``M`` objectives, ``L`` limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.encoding import Encoding, Rows
from onceforall.errors import ConfigError, InfeasibleError

RowFunction = Callable[[Rows], NDArray[Any]]
Floats = NDArray[np.float64]

_MAX_DESCENT_STEPS = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A search problem on populations.

    Attributes:
        encoding: Encoding of the rows.
        objectives: What to minimise, by name: each maps canonical rows ``(N, G)`` to ``(N,)``.
        costs: Everything a limit may be set on, by name; the report of a point lists them all.
        limits: Upper bounds on costs; an arch that exceeds one is never returned.

    Raises:
        ConfigError: If a limit is on no known cost, or there is no objective.
    """

    encoding: Encoding
    objectives: Mapping[str, RowFunction]
    costs: Mapping[str, RowFunction] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.objectives:
            raise ConfigError("a search needs at least one objective")
        for name in self.limits:
            if name not in self.costs:
                raise ConfigError(f"limit {name!r} is not one of {', '.join(self.costs)}")

    def score(self, rows: Rows) -> Floats:
        """Return the objectives ``(N, M)``, in the order of their names."""
        columns = [np.asarray(f(rows), dtype=np.float64) for f in self.objectives.values()]
        return np.stack(columns, axis=1)

    def violation(self, rows: Rows) -> Floats:
        """Return by how much limits are exceeded, relative and summed, ``(N,)``; 0 is feasible."""
        total = np.zeros(len(rows))
        for name, bound in self.limits.items():
            cost = np.asarray(self.costs[name](rows), dtype=np.float64)
            total += np.maximum(cost - bound, 0) / abs(bound)
        return total

    def feasible_row(self) -> Rows:
        """Return one row that keeps every limit, ``(1, G)``.

        Raises:
            InfeasibleError: With the smallest reachable value and the arch that reaches it.
        """
        row = descend(self.encoding, self.violation)
        if float(self.violation(row)[0]) == 0:
            return row
        for name, bound in self.limits.items():
            least = descend(self.encoding, self.costs[name])
            value = float(self.costs[name](least)[0])
            if value > bound:
                arch = self.encoding.to_archs(least)[0]
                raise InfeasibleError(
                    f"{name}={bound:g} cannot be kept: the smallest reachable value is "
                    f"{value:.6g}, by {arch}"
                )
        together = ", ".join(f"{name}={bound:g}" for name, bound in self.limits.items())
        raise InfeasibleError(
            f"the limits {together} can each be kept, but not together: the nearest arch is "
            f"{self.encoding.to_archs(row)[0]}"
        )


def descend(encoding: Encoding, cost: RowFunction) -> Rows:
    """Return a row of locally least cost, from the smallest arch, one gene at a time."""
    row = encoding.smallest()
    value = float(cost(row)[0])
    for _ in range(_MAX_DESCENT_STEPS):
        around = encoding.neighbours(row[0])
        costs = np.asarray(cost(around), dtype=np.float64)
        best = int(costs.argmin())
        if costs[best] >= value:
            break
        row, value = around[best : best + 1], float(costs[best])
    return row
