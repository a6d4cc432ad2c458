"""Rank correlation: are networks put in the right order?

Shape legend: ``N`` archs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceforall.errors import ConfigError


def kendall_tau(first: ArrayLike, second: ArrayLike) -> float:
    """Return Kendall's tau-b of two lists of numbers, exactly, in O(N log^2 N).

    Tau-b is ``(concordant - discordant) / sqrt((pairs - ties1) * (pairs - ties2))`` over all pairs;
    1 for the same order, -1 for the reverse. A list whose numbers are all equal has no order: the
    result is 0.

    Args:
        first: ``(N,)`` numbers.
        second: ``(N,)`` numbers.

    Raises:
        ConfigError: If the lists differ in length, or hold NaN.

    Source: Kendall, *The treatment of ties in ranking problems*, Biometrika 1945; counting by
    inversions after Knight, *A computer method for calculating Kendall's tau*, JASA 1966.
    """
    x_N, y_N = _ranks(first), _ranks(second)
    if len(x_N) != len(y_N):
        raise ConfigError(f"kendall_tau: {len(x_N)} numbers against {len(y_N)}")
    order = np.lexsort((y_N, x_N))  # ties in x come in the order of y: no inversion among them
    pairs = math.comb(len(x_N), 2)
    ties_x, ties_y = _tied_pairs(x_N), _tied_pairs(y_N)
    ties_both = _tied_pairs(x_N * (len(y_N) + 1) + y_N)
    discordant = _inversions(y_N[order])
    concordant = pairs - ties_x - ties_y + ties_both - discordant
    if pairs in (ties_x, ties_y):
        return 0.0
    return (concordant - discordant) / math.sqrt((pairs - ties_x) * (pairs - ties_y))


def _ranks(values: ArrayLike) -> NDArray[np.int64]:
    """Return dense ranks: equal numbers have equal ranks."""
    array = np.asarray(values, dtype=np.float64).ravel()
    if np.isnan(array).any():
        raise ConfigError("kendall_tau: NaN has no rank")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def _tied_pairs(ranks_N: NDArray[np.int64]) -> int:
    counts = np.unique(ranks_N, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def _inversions(ranks_N: NDArray[np.int64]) -> int:
    """Count the pairs that stand in falling order, one bit of the ranks at a time.

    Two ranks fall exactly when, at the highest bit in which they differ, the earlier has a 1 and
    the later a 0. For each bit, ranks with equal higher bits are gathered, and every 0 counts the
    1s that come before it in its group.
    """
    total = 0
    for bit in range(int(ranks_N.max(initial=0)).bit_length()):
        higher = ranks_N >> (bit + 1)
        order = np.argsort(higher, kind="stable")
        ones = (ranks_N[order] >> bit) & 1
        before = np.cumsum(ones) - ones
        group_start = np.searchsorted(higher[order], higher[order])
        total += int((before - before[group_start])[ones == 0].sum())
    return total
