"""Pareto fronts, ranks, crowding distance and hypervolume.

Every objective is minimised. A point with a NaN in any objective is worse than every point
without one: it is never on a front unless all points have one, and adds no volume.

Shape legend: ``N`` points, ``M`` objectives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def pareto_front(points: ArrayLike, *, keep_duplicates: bool = True) -> NDArray[np.bool_]:
    """Return which points no other point dominates.

    Args:
        points: Points ``(N, M)``.
        keep_duplicates: Whether all copies of a point count, or the first one only.

    Returns:
        Mask ``(N,)``.
    """
    values = _checked(points)
    distinct, first, inverse = _distinct(values)
    on_front = _front_of_sorted(distinct)
    if keep_duplicates:
        return on_front[inverse]
    mask = np.zeros(len(values), dtype=np.bool_)
    mask[first[on_front]] = True
    return mask


def non_dominated_ranks(points: ArrayLike) -> NDArray[np.int64]:
    """Return the front that each point is on, ``(N,)``: 0 for the Pareto front, then 1, ...

    Source: Deb et al., *A fast and elitist multiobjective genetic algorithm: NSGA-II*, IEEE TEC
    2002, section III.A; fronts are peeled one by one.
    """
    distinct, _, inverse = _distinct(_checked(points))
    ranks = np.zeros(len(distinct), dtype=np.int64)
    left = np.arange(len(distinct))
    rank = 0
    while len(left):
        on_front = _front_of_sorted(distinct[left])
        ranks[left[on_front]] = rank
        left = left[~on_front]
        rank += 1
    return ranks[inverse]


def crowding_distance(points: ArrayLike) -> Floats:
    """Return the crowding distance of each point of one front, ``(N,)``; larger is lonelier.

    The ends of every objective get infinity. An objective in which all points are equal adds
    nothing. Ties keep their order.

    Source: Deb et al., 2002, section III.B.
    """
    values = _without_nan(_checked(points))
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        ascending = column[order]
        if not len(ascending) or ascending[0] == ascending[-1]:
            continue
        finite = ascending[np.isfinite(ascending)]
        spread = float(finite[-1] - finite[0]) if len(finite) > 1 else 1.0
        distance[order[[0, -1]]] = np.inf
        with np.errstate(invalid="ignore"):
            gaps = (ascending[2:] - ascending[:-2]) / (spread or 1.0)
        distance[order[1:-1]] += np.nan_to_num(gaps, nan=0.0, posinf=np.inf)
    return distance


def hypervolume(points: ArrayLike, reference: ArrayLike) -> float:
    """Return the volume that the points dominate, up to a reference point.

    Exact for any number of objectives: by a sweep for one and two, by slices along the last
    objective above (``O(N^(M-1) log N)``).

    Args:
        points: Points ``(N, M)``; those that do not lie below ``reference`` in every objective
            add nothing.
        reference: Worst corner of the volume, ``(M,)``, finite.

    Raises:
        ValueError: If the shapes do not fit or the reference is not finite.
    """
    values = _checked(points)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != values.shape[1:]:
        raise ValueError(f"reference has shape {corner.shape}, the points {values.shape}")
    if not np.all(np.isfinite(corner)):
        raise ValueError(f"reference {corner.tolist()} is not finite")
    inside = values[np.all(values < corner, axis=1)]
    if np.any(np.isneginf(inside)):
        return float("inf")
    return _volume(_distinct(inside)[0], corner)


def _volume(points: Floats, corner: Floats) -> float:
    """Return the hypervolume of distinct points that all lie below ``corner``."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - points.min())
    points = points[_front_of_sorted(points)]
    if points.shape[1] == 2:
        # On a 2-D front in ascending x, y descends: each point adds one rectangle.
        tops = np.concatenate([corner[1:], points[:-1, 1]])
        return float(np.sum((corner[0] - points[:, 0]) * (tops - points[:, 1])))
    order = np.argsort(points[:, -1], kind="stable")
    levels = np.concatenate([points[order, -1], corner[-1:]])
    volume = 0.0
    for i in range(len(order)):
        height = float(levels[i + 1] - levels[i])
        if height > 0:
            slab = _distinct(points[order[: i + 1], :-1])[0]
            volume += height * _volume(slab, corner[:-1])
    return volume


def _front_of_sorted(points: Floats) -> NDArray[np.bool_]:
    """Return which of distinct, lexicographically sorted points are on the front."""
    count, num_objectives = points.shape
    mask = np.zeros(count, dtype=np.bool_)
    if not count or num_objectives == 0:
        return ~mask
    if num_objectives == 1:
        mask[0] = True
        return mask
    if num_objectives == 2:
        # Nothing dominates a point whose second objective is a strict new minimum.
        best = np.minimum.accumulate(points[:, 1])
        mask[0] = True
        mask[1:] = points[1:, 1] < best[:-1]
        return mask
    # A point can only be dominated by one that sorts before it. Whole batches are dropped at once.
    left = np.arange(count)
    while len(left):
        head = left[0]
        mask[head] = True
        rest = left[1:]
        left = rest[np.any(points[rest] < points[head], axis=1)]
    return mask


def _distinct(points: Floats) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Return sorted distinct points, the first row of each, and each row's distinct point."""
    values = _without_nan(points)
    if not len(values):
        empty = np.zeros(0, dtype=np.int64)
        return values, empty, empty
    order = np.lexsort(values.T[::-1]) if values.shape[1] else np.arange(len(values))
    ascending = values[order]
    new = np.concatenate([[True], np.any(ascending[1:] != ascending[:-1], axis=1)])
    inverse = np.empty(len(values), dtype=np.int64)
    inverse[order] = np.cumsum(new) - 1
    return ascending[new], order[new], inverse


def _without_nan(points: ArrayLike) -> Floats:
    """Return the points with rows that hold a NaN moved to plus infinity."""
    values = np.asarray(points, dtype=np.float64)
    bad: Any = np.any(np.isnan(values), axis=-1, keepdims=True)
    return np.where(bad, np.inf, values)


def _checked(points: ArrayLike) -> Floats:
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"points have shape {values.shape}, not (N, M)")
    return values
