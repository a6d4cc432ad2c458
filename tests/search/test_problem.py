"""Objectives that take a predictor's uncertainty into account."""

from __future__ import annotations

import numpy as np
import pytest

from onceforall.encoding import Rows
from onceforall.pareto import pareto_front
from onceforall.search.nsga2 import nsga2
from onceforall.search.problem import Problem, cautious_error
from tests.search.test_nsga2 import ENCODING, cost, error, everything

KERNEL = ENCODING.gene_index("kernel_size", 0, 0)


def predict(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Top-1 with its spread: the larger first kernel gives 0.0001 more, unsure by 0.01."""
    large = rows[:, KERNEL] == 1
    return 0.9 - error(rows) / 10 + 0.0001 * large, np.where(large, 0.01, 0.001)


@pytest.mark.parametrize("num_stds", [0.0, 0.5, 1.0, -2.0])
def test_the_cautious_error_is_that_of_the_bound(num_stds: float) -> None:
    mean, std = np.array([0.75, 0.5]), np.array([0.125, 0.0])
    found = cautious_error(lambda rows: (mean, std), num_stds=num_stds)(np.zeros((2, 1), np.uint8))
    assert found.tolist() == [0.25 + num_stds * 0.125, 0.5]


def share_of_unsure(num_stds: float) -> float:
    """Return the share of unsure archs on the front; check that it is the true front."""
    objective = cautious_error(predict, num_stds=num_stds)
    problem = Problem(encoding=ENCODING, objectives={"error": objective, "cost": cost})
    front = nsga2(problem, seed=0, population_size=32, generations=12)
    rows = everything()
    scores = np.stack([objective(rows), cost(rows)], axis=1)
    expected = {tuple(np.round(s, 9)) for s in scores[pareto_front(scores)]}
    assert {tuple(np.round(list(p.objectives.values()), 9)) for p in front.points} == expected
    return float(np.mean([p.arch.kernel_size[0][0] == 5 for p in front.points]))


def test_a_cautious_front_prefers_archs_that_are_sure() -> None:
    assert share_of_unsure(-1.0) > share_of_unsure(0.0) > 0.3
    assert share_of_unsure(1.0) == 0
