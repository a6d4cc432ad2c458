"""Fronts, ranks, crowding and hypervolume against brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceforall.pareto import (
    crowding_distance,
    hypervolume,
    non_dominated_ranks,
    pareto_front,
)

GRID = st.lists(st.tuples(*[st.integers(0, 5)] * 3).map(list), min_size=1, max_size=25).map(
    np.array
)


def dominates(first: np.ndarray, second: np.ndarray) -> bool:
    """Nowhere larger and somewhere smaller; a point with a NaN is the worst."""
    a, b = (np.where(np.isnan(p).any(), np.inf, p) for p in (first, second))
    return bool((a <= b).all() and (a < b).any())


def front_by_brute_force(points: np.ndarray) -> np.ndarray:
    return np.array([not any(dominates(q, p) for q in points) for p in points])


@given(GRID)
def test_the_front_is_what_nothing_dominates(points: np.ndarray) -> None:
    for m in (1, 2, 3):
        expected = front_by_brute_force(points[:, :m])
        assert np.array_equal(pareto_front(points[:, :m]), expected)


@given(GRID)
def test_the_front_is_idempotent_and_free_of_order(points: np.ndarray) -> None:
    front = points[pareto_front(points)]
    assert pareto_front(front).all()
    backwards = points[::-1]
    assert np.array_equal(pareto_front(backwards)[::-1], pareto_front(points))


@given(GRID)
def test_duplicates_are_kept_or_counted_once(points: np.ndarray) -> None:
    once = points[pareto_front(points, keep_duplicates=False)]
    every = points[pareto_front(points)]
    assert len(np.unique(every, axis=0)) == len(once)


@given(GRID)
def test_ranks_peel_fronts_one_by_one(points: np.ndarray) -> None:
    left = np.arange(len(points))
    expected = np.empty(len(points), dtype=int)
    rank = 0
    while len(left):
        on = front_by_brute_force(points[left])
        expected[left[on]] = rank
        left, rank = left[~on], rank + 1
    assert np.array_equal(non_dominated_ranks(points), expected)


@given(GRID)
def test_hypervolume_counts_the_dominated_cells(points: np.ndarray) -> None:
    for m in (1, 2, 3):
        cells = np.stack(np.meshgrid(*[np.arange(6)] * m, indexing="ij"), -1).reshape(-1, m)
        covered = (cells[:, None] >= points[None, :, :m]).all(-1).any(1)
        assert hypervolume(points[:, :m], np.full(m, 6)) == pytest.approx(covered.sum())


def test_hypervolume_by_hand() -> None:
    assert hypervolume([[1, 3], [2, 2], [3, 1]], [4, 4]) == pytest.approx(6)
    assert hypervolume([[5, 5]], [4, 4]) == 0
    assert hypervolume([[0, 0, 0, 0], [1, 1, 1, 1]], [2, 2, 2, 2]) == pytest.approx(16)


def test_nan_is_worse_than_anything() -> None:
    points = [[np.nan, 0.0], [5.0, 5.0]]
    assert pareto_front(points).tolist() == [False, True]


def test_crowding_is_infinite_at_the_ends() -> None:
    distances = crowding_distance([[0, 4], [1, 2], [2, 1], [4, 0]])
    assert np.isinf(distances[[0, 3]]).all()
    assert np.isfinite(distances[[1, 2]]).all()
    # Deb et al.: neighbours' distance over the range, summed over objectives.
    assert distances[1] == pytest.approx((2 - 0) / 4 + (4 - 1) / 4)
