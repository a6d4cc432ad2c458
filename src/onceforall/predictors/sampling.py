"""Which archs to evaluate for a predictor, and when there are enough.

Shape legend: ``N`` archs, ``G`` genes, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceforall.errors import ConfigError, InfeasibleError
from onceforall.measure.ranking import kendall_tau
from onceforall.predictors.accuracy import MIN_SAMPLES, AccuracyPredictor

Rows = NDArray[np.uint8]
# Draws that many rows (N, G) in canonical form.
RowSampler = Callable[[int, np.random.Generator], Rows]
# Returns the cost of each row, (N,); MACs for instance.
Cost = Callable[[Rows], ArrayLike]


def stratified_rows(
    sampler: RowSampler,
    cost: Cost,
    *,
    count: int,
    rng: np.random.Generator,
    num_strata: int = 10,
    pool_factor: int = 50,
) -> Rows:
    """Draw distinct archs spread evenly over their cost.

    Archs drawn at random crowd around the middle cost; a search ends at every cost. A large pool
    is drawn and cut into strata of equal width in log cost, which are emptied in turn.

    Args:
        sampler: Draws rows.
        cost: Cost of rows, positive.
        count: Archs wanted.
        rng: Source of randomness.
        num_strata: Strata.
        pool_factor: Rows drawn for each arch wanted.

    Returns:
        ``(count, G)`` distinct rows. They go round the strata, so every beginning of the list is
        spread as well.

    Raises:
        InfeasibleError: If the pool has fewer distinct archs than are wanted.
    """
    pool = sampler(count * pool_factor, rng)
    _, first = np.unique(pool, axis=0, return_index=True)
    pool = pool[np.sort(first)]
    if len(pool) < count:
        raise InfeasibleError(f"{count} distinct archs are wanted, the space gave {len(pool)}")
    log_cost_N = np.log(np.asarray(cost(pool), dtype=np.float64))
    edges = np.linspace(log_cost_N.min(), log_cost_N.max(), num_strata + 1)[1:-1]
    stratum_N = np.searchsorted(edges, log_cost_N, side="right")
    # The place of each arch within its stratum, in random order, is the round it is taken in.
    shuffled = rng.permutation(len(pool))
    round_N = np.empty(len(pool), dtype=np.int64)
    for stratum in range(num_strata):
        inside = shuffled[stratum_N[shuffled] == stratum]
        round_N[inside] = np.arange(len(inside))
    tie_N = rng.permutation(num_strata)[stratum_N]
    picked: Rows = pool[np.lexsort((tie_N, round_N))[:count]]
    return picked


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """What doubling the number of evaluated archs has done.

    Attributes:
        num_half: Archs behind the first figure.
        num_full: Archs behind the second.
        tau_half: Kendall tau on left-out archs, fitted on ``num_half``.
        tau_full: The same, fitted on ``num_full``.
        tolerance: Gain in tau below which more archs are not worth it.
    """

    num_half: int
    num_full: int
    tau_half: float
    tau_full: float
    tolerance: float

    @property
    def more_help(self) -> bool:
        """Return whether another doubling promises at least the tolerance.

        Gains shrink from one doubling to the next, so the last one is an upper estimate.
        """
        return self.tau_full - self.tau_half >= self.tolerance


def learning_curve(
    features: ArrayLike,
    accuracies: ArrayLike,
    *,
    seed: int = 0,
    tolerance: float = 0.01,
    num_folds: int = 3,
) -> LearningCurve:
    """Say whether evaluating more archs would still help the predictor.

    Every arch is left out once. It is predicted twice: from all archs of the other folds and from
    every other one of them.

    Args:
        features: ``(N, F)`` features of the archs evaluated so far.
        accuracies: ``(N,)`` their accuracies.
        seed: Seed of folds and fits.
        tolerance: Gain in Kendall tau for a doubling that is worth it.
        num_folds: Folds; the time is that of twice as many fits.

    Raises:
        ConfigError: If there are too few archs to halve.
    """
    x_NF, y_N = np.asarray(features, np.float64), np.asarray(accuracies, np.float64)
    fewest = (len(y_N) - -(-len(y_N) // num_folds)) // 2
    if fewest < MIN_SAMPLES:
        raise ConfigError(
            f"{len(y_N)} archs are too few for a learning curve: half of a fit would have "
            f"{fewest}, at least {MIN_SAMPLES} are needed"
        )
    order = np.random.default_rng(seed).permutation(len(y_N))
    full_N, half_N = np.empty(len(y_N)), np.empty(len(y_N))
    for fold in range(num_folds):
        test = order[fold::num_folds]
        train = np.setdiff1d(order, test, assume_unique=True)
        for guess_N, part in ((full_N, train), (half_N, train[::2])):
            predictor = AccuracyPredictor.fit(x_NF[part], y_N[part], seed=seed)
            guess_N[test] = predictor.predict(x_NF[test])[0]
    return LearningCurve(
        num_half=fewest,
        num_full=2 * fewest,
        tau_half=kendall_tau(half_N, y_N),
        tau_full=kendall_tau(full_N, y_N),
        tolerance=tolerance,
    )
