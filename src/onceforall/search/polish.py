"""Polishing a Pareto front: local search from its points.

Shape legend: ``N`` archs, ``G`` genes, ``M`` objectives.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onceforall.encoding import Rows
from onceforall.pareto import pareto_front
from onceforall.search.judge import Judge
from onceforall.search.local import TabuSearch, jump, points_of
from onceforall.search.moves import Moves
from onceforall.search.problem import Floats, Problem

_MAX_ROUNDS = 10
# Points of the front whose other objectives become limits for a walk.
_NUM_ANCHORS = 12
_WALK = TabuSearch(max_steps=20, patience=12)


def polish_front(problem: Problem, rows: Rows, *, seed: int) -> tuple[Rows, int]:
    """Return a front at least as good as that of ``rows``, and the evaluations it took.

    First, points spread along the front walk by tabu search: the first objective is minimised
    while the others may not rise. Then the single-move neighbourhood of every point of the front
    is searched, until it holds no improvement or ten rounds are over.

    Args:
        problem: Genes, objectives and limits.
        rows: Archs, ``(N, G)``; some of them feasible.
        seed: Decides the walks.
    """
    moves = Moves(problem.encoding)
    front, scores = _feasible_front(problem, rows)
    reached, evaluations = _walks(problem, moves, front, scores, seed)
    front, scores = _feasible_front(problem, np.concatenate([front, *reached]))
    seen: set[bytes] = set()
    for _ in range(_MAX_ROUNDS):
        new = [row for row in front if row.tobytes() not in seen]
        if not new:
            break
        seen.update(row.tobytes() for row in new)
        around = problem.encoding.unique(np.concatenate([moves.around(row)[0] for row in new]))
        evaluations += len(around)
        front, scores = _feasible_front(problem, np.concatenate([front, around]))
    return front, evaluations


def _walks(
    problem: Problem, moves: Moves, front: Rows, scores: Floats, seed: int
) -> tuple[list[Rows], int]:
    """Return what walks from points spread along the front reach."""
    first, *others = problem.objectives
    if not others or not len(front):
        return [], 0
    reached, evaluations = [], 0
    rng = np.random.default_rng([seed, 1])
    along = np.argsort(scores[:, -1], kind="stable")
    picked = np.unique(np.linspace(0, len(along) - 1, _NUM_ANCHORS).round().astype(int))
    for i in along[picked]:
        # A cost summed in another order may differ in its last digit.
        own = scores[i, 1:] + 1e-12 * np.abs(scores[i, 1:])
        bounds = dict(zip(others, own.tolist(), strict=True))
        # Where an objective is a cost with a limit of its own, the tighter bound counts.
        limits = {**problem.limits, **bounds}
        for name in bounds.keys() & problem.limits.keys():
            limits[name] = min(bounds[name], problem.limits[name])
        objectives = {name: problem.objectives[name] for name in others}
        bounded = replace(problem, costs={**problem.costs, **objectives}, limits=limits)
        judge = Judge(problem=bounded, objective=problem.objectives[first], max_evaluations=2**62)
        starts = points_of(judge, front[i : i + 1])
        if starts:
            point = jump(judge, moves, starts[0])
            reached.append(_WALK(judge, moves, point, rng).row[None])
        evaluations += judge.evaluations
    return reached, evaluations


def _feasible_front(problem: Problem, rows: Rows) -> tuple[Rows, Floats]:
    """Return the feasible archs that no other dominates, and their objectives."""
    rows = rows[problem.violation(rows) == 0]
    scores = problem.score(rows)
    scores = np.where(np.isnan(scores), np.inf, scores)
    front = pareto_front(scores, keep_duplicates=False)
    return rows[front], scores[front]
