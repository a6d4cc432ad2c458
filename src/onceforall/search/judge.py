"""Evaluating populations for one objective under limits, and counting it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onceforall.encoding import Rows
from onceforall.search.problem import Floats, Problem, RowFunction

# Archs remembered at a time: about 200 MB.
_MAX_KNOWN = 1_000_000


@dataclass(slots=True, kw_only=True)
class Judge:
    """Evaluates archs and keeps the account of a search.

    Attributes:
        problem: Where the limits come from.
        objective: Function to minimise.
        max_evaluations: Evaluations of the objective after which the search should end.
        deadline: Time of ``time.monotonic`` at which it should end, or None.
        evaluations: Archs whose objective was evaluated, each counted once.
        known: The objective of the latest, by the bytes of its row; walks come back to archs.
    """

    problem: Problem
    objective: RowFunction
    max_evaluations: int
    deadline: float | None = None
    evaluations: int = 0
    known: dict[bytes, float] = field(default_factory=dict)
    bounds: Floats = field(init=False)
    scale: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.bounds = np.array(list(self.problem.limits.values()), dtype=np.float64)
        self.scale = np.maximum(np.abs(self.bounds), np.finfo(np.float64).tiny)

    @property
    def is_spent(self) -> bool:
        """Return whether the budget is used up."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return late or self.evaluations >= self.max_evaluations

    def values(self, rows: Rows) -> Floats:
        """Return the objective of canonical rows ``(N, G)``, ``(N,)``; NaN counts as infinite."""
        data, width = rows.tobytes(), rows.shape[1]  # a byte a gene
        keys = [data[i : i + width] for i in range(0, len(data), width)]
        known = self.known
        new = {key: i for i, key in enumerate(keys) if key not in known}
        if new:
            if len(known) > _MAX_KNOWN:
                known = self.known = {key: known[key] for key in keys if key in known}
            fresh = rows if len(new) == len(rows) else rows[list(new.values())]
            values = np.asarray(self.objective(fresh), dtype=np.float64)
            values = np.where(np.isnan(values), np.inf, values)
            known.update(zip(new, values.tolist(), strict=True))
            self.evaluations += len(new)
            if len(new) == len(rows):
                return values
        return np.array([known[key] for key in keys], dtype=np.float64)

    def costs(self, rows: Rows) -> Floats:
        """Return the limited costs of rows, ``(N, L)``."""
        names = self.problem.limits
        costs = [np.asarray(self.problem.costs[name](rows), dtype=np.float64) for name in names]
        return np.stack(costs, axis=1) if costs else np.zeros((len(rows), 0))

    def inside(self, costs: Floats) -> NDArray[np.bool_]:
        """Return which rows of costs ``(N, L)`` keep every limit, ``(N,)``."""
        inside: NDArray[np.bool_] = np.all(costs <= self.bounds, axis=1)
        return inside
