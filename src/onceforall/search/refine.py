"""Refining a front: true evaluations where they may improve it most, and a new fit after each.

A predictor learns from archs drawn at random, and a search ends where it has seen few. So the
front is searched by the predictions and by their hopeful bounds, a batch of archs on and next to
what is found is measured, and the predictor is fitted again. A batch maximises the expected gain
in hypervolume, part by part of the front; each arch in it is believed to be as good as predicted
while the next one is chosen.

Shape legend: ``N`` archs, ``G`` genes, ``C`` costs, ``K`` levels of the costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.arch import Arch
from onceforall.encoding import Rows
from onceforall.errors import ConfigError, MeasurementError
from onceforall.search.moves import Moves
from onceforall.search.nsga2 import Front, nsga2
from onceforall.search.problem import Floats, Problem, cautious_error

# Maps rows (N, G) to the mean and standard deviation of top-1, (N,) each.
Predict = Callable[[Rows], tuple[NDArray[Any], NDArray[Any]]]
# Fits to rows (N, G) and their measured top-1 (N,).
Fit = Callable[[Rows, Floats], Predict]

# Standard deviations added to predictions in the second search: where little is known.
_HOPE = 2.0
# Points of the front whose neighbours are candidates.
_MAX_CENTRES = 32
# Candidates that stay after the first look.
_MAX_CANDIDATES = 512
# Draws of archs at random where a front and its neighbours are all measured.
_MAX_DRAWS = 20
_DRAWN = 500

_ERF = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """Archs and their measured accuracy.

    Attributes:
        rows: Canonical rows, ``(N, G)``, each once.
        top1: Measured top-1, ``(N,)``, fractions.

    Raises:
        MeasurementError: If the lengths differ or a top-1 is not a finite number.
    """

    rows: Rows
    top1: Floats

    def __post_init__(self) -> None:
        if self.top1.shape != (len(self.rows),):
            raise MeasurementError(f"{len(self.rows)} archs, but top-1 of shape {self.top1.shape}")
        if not np.isfinite(self.top1).all():
            raise MeasurementError("a measured top-1 is not a finite number")

    def joined(self, rows: Rows, top1: Sequence[float]) -> Measured:
        """Return these and further ones."""
        values = np.asarray(top1, dtype=np.float64)
        if values.shape != (len(rows),):
            raise MeasurementError(f"{len(rows)} archs to measure, but {len(values)} measurements")
        return Measured(
            rows=np.concatenate([self.rows, rows]), top1=np.concatenate([self.top1, values])
        )

    def first(self, predict: Predict) -> Predict:
        """Return the predictor that gives measured archs their measured top-1, without spread."""
        known = {row.tobytes(): value for row, value in zip(self.rows, self.top1, strict=True)}

        def predict_unless_measured(rows: Rows) -> tuple[Floats, Floats]:
            mean, std = (np.array(values, dtype=np.float64) for values in predict(rows))
            for i, row in enumerate(rows):
                value = known.get(row.tobytes())
                if value is not None:
                    mean[i], std[i] = value, 0.0
            return mean, std

        return predict_unless_measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """How a front is refined.

    Attributes:
        evaluations: Archs to measure in all.
        rounds: Fits and searches that they are shared out to.
        population_size: Of each search.
        generations: Of each search.
    """

    evaluations: int
    rounds: int = 8
    population_size: int = 64
    generations: int = 30

    def __post_init__(self) -> None:
        if self.evaluations < 0 or self.rounds < 1:
            raise ConfigError(
                f"evaluations {self.evaluations} and rounds {self.rounds} must be >= 0 and >= 1"
            )

    @property
    def batches(self) -> tuple[int, ...]:
        """Return the size of every batch; none is empty."""
        rounds = min(self.rounds, self.evaluations)
        return tuple(
            self.evaluations // rounds + (i < self.evaluations % rounds) for i in range(rounds)
        )


def refine(
    template: Problem,
    measured: Measured,
    *,
    fit: Fit,
    evaluate: Callable[[list[Arch]], Sequence[float]],
    settings: Refinement,
    seed: int,
) -> Measured:
    """Return ``measured`` and what further true evaluations gave.

    Args:
        template: Costs to minimise as objectives, and limits; the error comes on top.
        measured: Archs measured so far, enough for a fit.
        fit: Fits a predictor; called before every batch, with all that is measured by then.
        evaluate: Measures the top-1 of archs. It is asked for the same archs in the same order
            whenever everything else is the same, so that a caller who keeps what was measured
            can be interrupted anywhere.
        settings: Evaluations and rounds.
        seed: Decides everything else.

    Returns:
        Exactly ``settings.evaluations`` archs more, none measured twice; fewer only where no
        others that keep the limits were found.

    Raises:
        ConfigError: If the template has an objective named ``error``.
        InfeasibleError: If no arch keeps every limit.
        MeasurementError: If ``evaluate`` returns another number of values, or no numbers.
    """
    for number, count in enumerate(settings.batches):
        predict = fit(measured.rows, measured.top1)
        fronts = [
            _search(template, measured, predict, settings, seed=seed, num_stds=-hope)
            for hope in (0.0, _HOPE)
        ]
        archs = [point.arch for front in fronts for point in front.points]
        rows = template.encoding.unique(template.encoding.from_archs(archs))
        rng = np.random.default_rng([seed, number])
        pool = _candidates(template, rows, measured, count, rng)
        batch = _chosen(template, pool, measured, predict, levels=template.score(rows), count=count)
        if not len(batch):
            break
        measured = measured.joined(batch, evaluate(template.encoding.to_archs(batch)))
    return measured


def _search(
    template: Problem,
    measured: Measured,
    predict: Predict,
    settings: Refinement,
    *,
    seed: int,
    num_stds: float,
) -> Front:
    if "error" in template.objectives:
        raise ConfigError("the template's objectives are costs; the error is put before them")
    error = cautious_error(measured.first(predict), num_stds=num_stds)
    return nsga2(
        replace(template, objectives={"error": error, **template.objectives}),
        seed=seed,
        population_size=settings.population_size,
        generations=settings.generations,
        start=measured.rows,
    )


def _candidates(
    template: Problem, front: Rows, measured: Measured, count: int, rng: np.random.Generator
) -> Rows:
    """Return archs to choose from, none measured: the front, its neighbours, others if need be."""
    encoding, moves = template.encoding, Moves(template.encoding)
    picked = np.unique(np.linspace(0, len(front) - 1, _MAX_CENTRES).round().astype(int))
    around = [moves.around(row)[0] for row in front[picked]]
    pool = _new(template, np.concatenate([front, *around]), measured)
    for _ in range(_MAX_DRAWS):
        if len(pool) >= count:
            break
        parents = front[rng.integers(len(front), size=_DRAWN)]
        drawn = [encoding.mutate(parents, rng, 0.3), encoding.sample(_DRAWN, rng)]
        pool = _new(template, np.concatenate([pool, *drawn]), measured)
    return pool


def _new(template: Problem, rows: Rows, measured: Measured) -> Rows:
    """Return the distinct rows that keep the limits and are not measured."""
    known = {row.tobytes() for row in measured.rows}
    rows = template.encoding.unique(rows)
    new = np.array([row.tobytes() not in known for row in rows], dtype=np.bool_)
    found: Rows = rows[new & (template.violation(rows) == 0)]
    return found


def _chosen(
    template: Problem,
    pool: Rows,
    measured: Measured,
    predict: Predict,
    *,
    levels: Floats,
    count: int,
) -> Rows:
    """Return the batch to measure, ``(count, G)`` or the whole pool.

    The levels are cut into as many parts, along the last cost; from each, one after the other, the
    arch with the largest expected gain is taken. Ties go to the larger spread.
    """
    if len(pool) <= count:
        return pool
    least = _least_errors(template, measured, levels)
    mean, std = (np.asarray(values, dtype=np.float64) for values in predict(pool))
    costs = template.score(pool)
    reach = _within(costs, levels)
    gain = _expected_gain(1 - mean, std, reach, least)
    kept = np.lexsort((-std, -gain))[: max(count, _MAX_CANDIDATES)]
    candidates: Rows = pool[kept]
    mean, std, reach = mean[kept], std[kept], reach[kept]
    edges = np.quantile(levels[:, -1], np.arange(1, count) / count)
    part = np.searchsorted(edges, costs[kept, -1], side="right")
    chosen: list[int] = []
    for number in range(count):
        gain = _expected_gain(1 - mean, std, reach, least)
        gain[chosen] = -np.inf
        best = int(np.lexsort((-std, -gain, part != number))[0])
        if best in chosen:  # the part is empty
            best = int(np.lexsort((-std, -gain))[0])
        chosen.append(best)
        least = np.where(reach[best], np.minimum(least, 1 - mean[best]), least)
    batch: Rows = candidates[chosen]
    return batch


def _within(costs: Floats, levels: Floats) -> NDArray[np.bool_]:
    """Return which archs ``(N, C)`` cost no more than each level ``(K, C)``, ``(N, K)``."""
    within: NDArray[np.bool_] = np.all(costs[:, None] <= levels, axis=2)
    return within


def _least_errors(template: Problem, measured: Measured, levels: Floats) -> Floats:
    """Return the least measured error within each level ``(K, C)``, ``(K,)``.

    Where nothing was measured within a level, the largest measured error stands for it.
    """
    error = 1 - measured.top1
    feasible = template.violation(measured.rows) == 0
    reach = _within(template.score(measured.rows), levels) & feasible[:, None]
    least: Floats = np.where(reach, error[:, None], error.max()).min(axis=0)
    return least


def _expected_gain(error: Floats, std: Floats, reach: NDArray[np.bool_], least: Floats) -> Floats:
    """Return by how much each arch is expected to lower the least errors, ``(N,)``.

    That is the expected gain in hypervolume, with costs measured in levels of the front: along
    it, every part counts the same whatever its unit. A normal error of mean ``m`` and deviation
    ``s`` improves on ``b`` by ``(b - m) P(z) + s p(z)`` on average, ``z = (b - m) / s``, with the
    normal distribution ``P`` and its density ``p``.

    Source: Jones et al., *Efficient Global Optimization*, 1998, equation 15.
    """
    better = least - error[:, None]
    spread = np.broadcast_to(std[:, None], better.shape)
    sure = spread <= 0
    z = np.divide(better, spread, out=np.zeros_like(better), where=~sure)
    z = np.clip(z, -40, 40)  # beyond, nothing changes but the squares get too large
    share = 0.5 * (1 + _ERF(z / math.sqrt(2)))
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    gain = np.where(sure, np.maximum(better, 0.0), better * share + spread * density)
    mean: Floats = np.where(reach, gain, 0.0).mean(axis=1)
    return mean
