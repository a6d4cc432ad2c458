"""Local search under limits: jumps along prices, and tabu search.

Both look at all single moves around an arch first. Scores and costs of archs that differ in a few
units are close to the sums of the single effects, so combinations are ranked by those sums and
only the promising ones are evaluated; what is accepted has always been evaluated itself.

Shape legend: ``N`` archs, ``G`` genes, ``L`` limits, ``U`` units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onceforall.encoding import Rows
from onceforall.search.judge import Judge
from onceforall.search.moves import Moves, combine
from onceforall.search.problem import Floats

# Improvements below this are rounding of the score, not progress.
_MIN_GAIN = 1e-7
# How far, relative to a limit, summed effects may overshoot: they are estimates.
_OVERSHOOT = 1e-3
# Units that one jump may change.
_MAX_UNITS = 10
# Single moves that pairs are made of: their number squared is the work of ranking.
_MAX_PAIRED = 60
# Gains from or to an infinite objective: sums of them stay finite, also in float32.
_MAX_GAIN = 1e30
_PRICE_QUANTILES = (0.3, 0.5, 0.65, 0.8, 0.9, 0.97)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Point:
    """An evaluated arch.

    Attributes:
        row: Canonical row, ``(G,)``.
        value: Its objective.
        costs: Its limited costs, ``(L,)``.
    """

    row: Rows
    value: float
    costs: Floats


@dataclass(slots=True, kw_only=True, eq=False)
class _Around:
    """All single moves around a point: what each gains and costs.

    Attributes:
        point: The point.
        rows: Its neighbours, ``(n, G)``.
        move: Number of each one's move, ``(n,)``.
        unit: Unit that each one changes, ``(n,)``, ascending.
        costs: Limited costs, ``(n, L)``; always evaluated.
        extra: Costs beyond the point's, relative to the limits, ``(n, L)``.
        slack: What the point leaves of the limits, relative, ``(L,)``.
        gains: Decrease of the objective; where ``known`` is False an estimate, ``(n,)``.
        known: Whether the gain has been evaluated here, ``(n,)``.
        values: Objective of each one where ``known``, ``(n,)``.
    """

    point: Point
    rows: Rows
    move: NDArray[np.int64]
    unit: NDArray[np.int64]
    costs: Floats
    extra: Floats
    slack: Floats
    gains: Floats
    known: NDArray[np.bool_]
    values: Floats


def points_of(judge: Judge, rows: Rows) -> list[Point]:
    """Return the evaluated archs of canonical rows that keep every limit, best first."""
    costs = judge.costs(rows)
    inside = judge.inside(costs)
    rows, costs = rows[inside], costs[inside]
    values = judge.values(rows)
    return [
        Point(row=rows[i], value=float(values[i]), costs=costs[i])
        for i in np.argsort(values, kind="stable")
    ]


def jump(judge: Judge, moves: Moves, start: Point, *, max_steps: int = 8) -> Point:
    """Return what a few long steps from ``start`` reach.

    A step puts several prices on the limited costs. At each price, every unit's best move is the
    one with the largest gain after paying; the best units are changed together, as many as the
    limits allow. The best arch found this way is the next start, while it improves.
    """
    point = start
    for _ in range(max_steps):
        around = _look_around(judge, moves, point)
        _evaluate(judge, around, np.ones(len(around.rows), dtype=np.bool_))
        candidates = list(_priced(around))
        if not candidates:
            break
        rows = moves.encoding.unique(np.concatenate(candidates))
        found = points_of(judge, rows)
        if not found or found[0].value >= point.value - _MIN_GAIN:
            break
        point = found[0]
    return point


@dataclass(frozen=True, slots=True, kw_only=True)
class TabuSearch:
    """A walk that always moves on to the best arch nearby, even uphill.

    A step ranks single moves and pairs by what they are estimated to gain. A gain is evaluated
    when its unit has just changed, when it is among the most promising, and every few steps;
    otherwise the last known one stands in for it. The walk goes to the best arch evaluated that
    keeps the limits, was not visited, and changes no unit changed a few steps ago.

    Attributes:
        max_steps: Steps at most.
        patience: Steps without an improvement that end the walk.
        num_singles: Promising single moves evaluated in each step.
        num_pairs: Promising pairs evaluated in each step.
        refresh: Steps after which every single move is evaluated again.
        rest: Fewest and most steps for which a changed unit rests.

    Source: Glover, *Tabu Search - Part I*, ORSA Journal on Computing 1989.
    """

    max_steps: int = 30
    patience: int = 20
    num_singles: int = 25
    num_pairs: int = 40
    refresh: int = 6
    rest: tuple[int, int] = (1, 3)

    def __call__(self, judge: Judge, moves: Moves, start: Point, rng: np.random.Generator) -> Point:
        """Return the best arch on the walk from ``start``; it ends early with the budget."""
        point = best = start
        rests_until = np.zeros(moves.num_units, dtype=np.int64)
        remembered = np.full(len(moves.unit), np.nan)
        visited = {start.row.tobytes()}
        last_best = 0
        for step in range(self.max_steps):
            if judge.is_spent or step - last_best > self.patience:
                break
            around = _look_around(judge, moves, point)
            free = rests_until[around.unit] <= step
            fresh = step % self.refresh == 0
            around.gains = remembered[around.move]
            _evaluate(judge, around, fresh | self._worth_a_look(around, free))
            remembered[around.move] = around.gains
            following = self._next(judge, moves, around, free, visited)
            if following is None:
                break
            visited.add(following.row.tobytes())
            changed = np.zeros(moves.num_units, dtype=np.bool_)
            changed[moves.encoding.unit[following.row != point.row]] = True
            rests_until[changed] = step + 1 + rng.integers(*self.rest, endpoint=True)
            remembered[changed[moves.unit]] = np.nan
            point = following
            if point.value < best.value - _MIN_GAIN:
                best, last_best = point, step
        return best

    def _worth_a_look(self, around: _Around, free: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which single moves to evaluate: unknown ones, and the most promising."""
        unknown = np.isnan(around.gains)
        worth = _worth(around)
        worth[~free | unknown] = -np.inf
        wanted = unknown.copy()
        if len(worth) > self.num_singles:
            wanted[np.argpartition(-worth, self.num_singles)[: self.num_singles]] = True
        return wanted

    def _next(
        self,
        judge: Judge,
        moves: Moves,
        around: _Around,
        free: NDArray[np.bool_],
        visited: set[bytes],
    ) -> Point | None:
        """Return the best arch to go on with, or None."""
        single = np.nonzero(free & around.known & judge.inside(around.costs))[0]
        pairs = _pairs(moves, around, free, self.num_pairs)
        pair_costs = judge.costs(pairs)
        inside = judge.inside(pair_costs)
        pairs, pair_costs = pairs[inside], pair_costs[inside]
        rows = np.concatenate([around.rows[single], pairs])
        costs = np.concatenate([around.costs[single], pair_costs])
        values = np.concatenate([around.values[single], judge.values(pairs)])
        for i in np.argsort(values, kind="stable"):
            if rows[i].tobytes() not in visited:
                return Point(row=rows[i], value=float(values[i]), costs=costs[i])
        return None


def _look_around(judge: Judge, moves: Moves, point: Point) -> _Around:
    """Return the neighbours and their costs, with no gain known."""
    rows, move = moves.around(point.row)
    costs = judge.costs(rows)
    return _Around(
        point=point,
        rows=rows,
        move=move,
        unit=moves.unit[move],
        costs=costs,
        extra=(costs - point.costs) / judge.scale,
        slack=(judge.bounds - point.costs) / judge.scale,
        gains=np.full(len(rows), np.nan),
        known=np.zeros(len(rows), dtype=np.bool_),
        values=np.full(len(rows), np.nan),
    )


def _evaluate(judge: Judge, around: _Around, wanted: NDArray[np.bool_]) -> None:
    """Put the true gain of the wanted neighbours into ``around``."""
    values = judge.values(around.rows[wanted])
    differs = values != around.point.value  # infinity less infinity is no gain
    gains = np.subtract(around.point.value, values, out=np.zeros(len(values)), where=differs)
    around.gains[wanted] = np.clip(gains, -_MAX_GAIN, _MAX_GAIN)
    around.values[wanted] = values
    around.known |= wanted


def _worth(around: _Around) -> Floats:
    """Return gains less a middling price on costs; unknown gains count as 0."""
    gains = np.where(np.isnan(around.gains), 0.0, around.gains)
    paid = around.extra.sum(axis=1)
    worth: Floats = gains - _prices(gains, paid)[-1 - len(_PRICE_QUANTILES) // 3] * paid
    return worth


def _priced(around: _Around) -> Iterator[Rows]:
    """Yield the combinations of moves that prices suggest, without checking the limits."""
    if not len(around.rows):
        return
    starts = np.nonzero(np.diff(around.unit, prepend=-1))[0]
    lengths = np.diff(np.append(starts, len(around.unit)))
    num_limits = around.extra.shape[1]
    weights = np.concatenate([np.eye(num_limits), np.ones((int(num_limits > 1), num_limits))])
    for weight in weights if num_limits else np.zeros((1, 0)):
        paid = around.extra @ weight
        for price in _prices(around.gains, paid):
            worth = around.gains - price * paid
            best = np.maximum.reduceat(worth, starts)
            is_best = np.nonzero(worth == np.repeat(best, lengths))[0]
            # One move of each unit: the first of those that are worth most.
            _, first = np.unique(around.unit[is_best], return_index=True)
            chosen = is_best[first]
            chosen = chosen[np.argsort(-worth[chosen], kind="stable")][:_MAX_UNITS]
            yield from _prefixes(around, chosen[worth[chosen] > 0])


def _prices(gains: Floats, paid: Floats) -> Floats:
    """Return gains for each unit of cost at which moves start to pay off, ascending."""
    useful = (gains > 0) & (paid > 1e-4)
    if not useful.any():
        return np.zeros(len(_PRICE_QUANTILES))
    ratios = np.sort(gains[useful] / paid[useful])
    return ratios[[int(q * (len(ratios) - 1)) for q in _PRICE_QUANTILES]]


def _prefixes(around: _Around, chosen: NDArray[np.int64]) -> Iterator[Rows]:
    """Yield the point with the first, the first two, ... of the moves, where they may fit."""
    total = np.cumsum(around.extra[chosen], axis=0)
    fits = np.all(total <= around.slack + _OVERSHOOT, axis=1)
    row = around.point.row
    for move, fit in zip(chosen, fits, strict=True):
        row = np.where(around.rows[move] != around.point.row, around.rows[move], row)
        if fit:
            yield row[None]


def _pairs(moves: Moves, around: _Around, free: NDArray[np.bool_], count: int) -> Rows:
    """Return the pairs of moves with the largest summed gains among those that may fit."""
    some = np.nonzero(free & np.isfinite(around.gains))[0]
    if len(some) > _MAX_PAIRED:
        worth = _worth(around)[some]
        some = np.sort(some[np.argpartition(-worth, _MAX_PAIRED)[:_MAX_PAIRED]])
    gains, unit = around.gains[some].astype(np.float32), around.unit[some]
    summed = gains[:, None] + gains
    bad = unit[:, None] >= unit
    with np.errstate(over="ignore"):  # an extra beyond float32 is infinite, and fits nowhere
        extras_CN = around.extra[some].T.astype(np.float32)
    for extra, slack in zip(extras_CN, around.slack, strict=True):
        bad |= extra[:, None] + extra > slack + _OVERSHOOT
    summed[bad] = -np.inf
    flat = summed.ravel()
    top = np.arange(len(flat)) if len(flat) <= count else np.argpartition(-flat, count)[:count]
    top = np.sort(top[np.isfinite(flat[top])])
    if not len(top):
        return around.rows[:0]
    first, second = np.divmod(top, len(some))
    chosen = (around.rows[some[first]], around.rows[some[second]])
    return combine(moves.encoding, around.point.row, chosen)
