"""Refinement: the right number of evaluations, none twice, and better fronts for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from onceforall.arch import Arch
from onceforall.encoding import Encoding, Rows
from onceforall.errors import ConfigError, MeasurementError
from onceforall.genes import StageChoices
from onceforall.search.nsga2 import Front, nsga2
from onceforall.search.problem import Problem
from onceforall.search.refine import (
    Measured,
    Predict,
    Refinement,
    _chosen,
    _expected_gain,
    _search,
    refine,
)
from onceforall.space import SearchSpace
from tests.search.test_nsga2 import ENCODING as SMALL
from tests.search.test_nsga2 import cost as small_cost
from tests.search.test_nsga2 import error as small_error

STAGE = StageChoices(
    num_blocks=3, depths=(1, 2, 3), kernel_sizes=(3, 5, 7), expand_ratios=(2, 3, 4)
)
ENCODING = Encoding(SearchSpace(resolutions=(8, 12, 16), stages=(STAGE, STAGE, STAGE)))
SETTINGS = Refinement(evaluations=32, rounds=4, population_size=32, generations=12)


def counted(rows: Rows) -> np.ndarray:
    return np.where(ENCODING.active(rows), rows + 1.0, 0.0)


def cost(rows: Rows) -> np.ndarray:
    return counted(rows).sum(axis=1) * (1 + 0.3 * rows[:, 0])


def top1(rows: Rows) -> np.ndarray:
    """Return the truth: saturating, with effects of single options that no order explains."""
    weights = 1 + np.arange(ENCODING.num_genes) * 7 % 5
    effects = 0.4 * np.sin(1.7 * np.arange(1, ENCODING.num_options.sum() + 1) ** 2)
    smooth = 0.4 * (1 - np.exp(-counted(rows) @ weights / 120))
    return 0.5 + smooth + 0.01 * rows[:, 0] + 0.02 * np.sin(ENCODING.features(rows) @ effects)


def gaussian_process(encoding: Encoding) -> Callable[[Rows, np.ndarray], Predict]:
    """Return a fit with a known posterior: a squared-exponential kernel on one-hot features."""

    def fit(rows: Rows, values: np.ndarray) -> Predict:
        mean, scale = float(values.mean()), float(values.std()) or 1.0
        features = encoding.features(rows).astype(np.float64)

        def kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            products = first @ second.T
            sides = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1)
            return np.exp((products - sides / 2) / 8)

        lower = np.linalg.cholesky(kernel(features, features) + 1e-3 * np.eye(len(rows)))
        weights = np.linalg.solve(lower.T, np.linalg.solve(lower, (values - mean) / scale))

        def predict(asked: Rows) -> tuple[np.ndarray, np.ndarray]:
            across = kernel(encoding.features(asked).astype(np.float64), features)
            known = np.square(np.linalg.solve(lower, across.T)).sum(axis=0)
            return mean + scale * across @ weights, scale * np.sqrt(np.maximum(1 - known, 1e-9))

        return predict

    return fit


FIT = gaussian_process(ENCODING)
TEMPLATE = Problem(encoding=ENCODING, objectives={"cost": cost}, costs={"cost": cost})


class Truth:
    """Measures archs and remembers every one."""

    def __init__(self) -> None:
        self.archs: list[Arch] = []

    def __call__(self, archs: list[Arch]) -> list[float]:
        self.archs += archs
        return top1(ENCODING.from_archs(archs)).tolist()


def samples(seed: int, count: int) -> Measured:
    rows = ENCODING.unique(ENCODING.sample(2 * count, np.random.default_rng(seed)))[:count]
    return Measured(rows=rows, top1=top1(rows))


def truth_of(front: Front) -> tuple[np.ndarray, np.ndarray]:
    rows = ENCODING.from_archs([point.arch for point in front.points])
    return 1 - top1(rows), cost(rows)


def test_refinement_beats_as_many_random_evaluations() -> None:
    objectives = {"error": lambda rows: 1 - top1(rows), "cost": cost}
    least, levels = truth_of(nsga2(replace(TEMPLATE, objectives=objectives), seed=0))

    def regret(known: Measured, seed: int) -> float:
        """Return how much worse the best arch of a front is, on average over its costs."""
        predict = FIT(known.rows, known.top1)
        found = _search(TEMPLATE, known, predict, SETTINGS, seed=seed, num_stds=0.0)
        errors, costs = truth_of(found)
        within = np.where(costs <= levels[:, None], errors, 0.5).min(axis=1)
        return float((within - least).mean())

    settings = replace(SETTINGS, evaluations=36, rounds=6)
    regrets = []
    for seed in range(3):
        drawn = samples(seed, 136)
        start = Measured(rows=drawn.rows[:100], top1=drawn.top1[:100])
        refined = refine(TEMPLATE, start, fit=FIT, evaluate=Truth(), settings=settings, seed=seed)
        assert len(refined.rows) == len(drawn.rows)
        regrets.append((regret(refined, seed), regret(drawn, seed)))
    assert all(chosen < random_ones for chosen, random_ones in regrets)
    chosen, random_ones = np.mean(regrets, axis=0)
    assert chosen < 0.75 * random_ones, regrets


@pytest.mark.parametrize(("evaluations", "rounds"), [(13, 4), (3, 5), (1, 1), (0, 3)])
def test_exactly_so_many_evaluations_and_none_twice(evaluations: int, rounds: int) -> None:
    settings = replace(SETTINGS, evaluations=evaluations, rounds=rounds)
    start, truth = samples(0, 30), Truth()
    refined = refine(TEMPLATE, start, fit=FIT, evaluate=truth, settings=settings, seed=1)
    assert len(truth.archs) == evaluations
    assert len(set(truth.archs) | set(ENCODING.to_archs(start.rows))) == 30 + evaluations
    assert ENCODING.to_archs(refined.rows)[30:] == truth.archs
    assert np.array_equal(refined.top1, top1(refined.rows))


def test_the_same_seed_asks_for_the_same_archs_and_limits_hold() -> None:
    template = replace(TEMPLATE, limits={"cost": 30.0})
    settings = replace(SETTINGS, evaluations=12, rounds=3)
    asked = []
    for _ in range(2):
        truth = Truth()
        refine(template, samples(0, 30), fit=FIT, evaluate=truth, settings=settings, seed=3)
        assert (cost(ENCODING.from_archs(truth.archs)) <= 30).all()
        asked.append(truth.archs)
    assert asked[0] == asked[1]


def test_evaluations_spread_along_the_costs() -> None:
    truth = Truth()
    settings = replace(SETTINGS, evaluations=12, rounds=1)
    refine(TEMPLATE, samples(0, 40), fit=FIT, evaluate=truth, settings=settings, seed=0)
    costs = np.sort(cost(ENCODING.from_archs(truth.archs)))
    assert costs[-1] > 2 * costs[0]
    assert np.diff(costs).max() < (costs[-1] - costs[0]) / 3, costs


def test_a_space_that_is_exhausted_ends_early() -> None:
    space = SearchSpace(
        resolutions=(8, 12),
        stages=(
            StageChoices(num_blocks=1, depths=(1,), kernel_sizes=(3, 5), expand_ratios=(2, 3)),
        ),
    )
    encoding = Encoding(space)
    problem = Problem(encoding=encoding, objectives={"cost": lambda rows: rows.sum(axis=1) + 1.0})
    start = Measured(rows=encoding.smallest(), top1=np.array([0.5]))

    def evaluate(archs: list[Arch]) -> list[float]:
        return [0.6] * len(archs)

    refined = refine(
        problem,
        start,
        fit=gaussian_process(encoding),
        evaluate=evaluate,
        settings=replace(SETTINGS, evaluations=50),
        seed=0,
    )
    assert len(encoding.unique(refined.rows)) == len(refined.rows) == space.size == 8


def test_the_expected_gain_is_the_mean_over_draws() -> None:
    rng = np.random.default_rng(0)
    error, std = np.array([0.30, 0.22, 0.25]), np.array([0.02, 0.05, 0.0])
    least = np.array([0.28, 0.24, 0.35])
    reach = np.array([[True, True, True], [False, True, True], [False, False, True]])
    drawn = error[:, None] + std[:, None] * rng.normal(size=400_000)
    better = np.maximum(least[None, :, None] - drawn[:, None], 0.0).mean(axis=2)
    expected = (better * reach).mean(axis=1)
    assert _expected_gain(error, std, reach, least) == pytest.approx(expected, rel=0.01)
    assert _expected_gain(error, std, reach, least)[2] == pytest.approx(0.1 / 3)


def test_the_most_promising_are_chosen_and_believed() -> None:
    rows = SMALL.unique(SMALL.sample(60, np.random.default_rng(0)))
    measured = Measured(rows=rows[:5], top1=np.full(5, 0.5))
    sure, unsure, same_cost = rows[5], rows[6], rows[7]
    means = {sure.tobytes(): 0.56, unsure.tobytes(): 0.5, same_cost.tobytes(): 0.555}
    stds = {sure.tobytes(): 1e-6, unsure.tobytes(): 0.05, same_cost.tobytes(): 1e-6}

    def predict(asked: Rows) -> tuple[np.ndarray, np.ndarray]:
        keys = [row.tobytes() for row in asked]
        return (
            np.array([means.get(key, 0.4) for key in keys]),
            np.array([stds.get(key, 1e-6) for key in keys]),
        )

    template = Problem(encoding=SMALL, objectives={"one": lambda rows: np.ones(len(rows))})
    batch = _chosen(template, rows[5:], measured, predict, levels=np.ones((1, 1)), count=2)
    # The second best in the mean gains nothing once the best is believed; the unsure one may.
    assert [row.tobytes() for row in batch] == [sure.tobytes(), unsure.tobytes()]


def test_measured_values_are_preferred() -> None:
    rows = SMALL.unique(SMALL.sample(40, np.random.default_rng(1)))[:20]
    # Measured far better than a fit to noise would say.
    lucky = Measured(rows=rows, top1=np.where(np.arange(20) == 7, 0.99, 0.2))

    def fit(rows: Rows, values: np.ndarray) -> Predict:
        return lambda asked: (0.5 - small_error(asked), np.full(len(asked), 0.01))

    problem = Problem(encoding=SMALL, objectives={"cost": small_cost})
    predict = fit(lucky.rows, lucky.top1)
    front = _search(problem, lucky, predict, SETTINGS, seed=0, num_stds=0.0)
    by_arch = {point.arch: point.objectives["error"] for point in front.points}
    assert by_arch[SMALL.to_archs(rows[7:8])[0]] == pytest.approx(0.01)
    assert not set(SMALL.to_archs(np.delete(rows, 7, axis=0))) & set(by_arch)


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="evaluations -1 and rounds 8 must be"):
        Refinement(evaluations=-1)
    with pytest.raises(MeasurementError, match="2 archs, but top-1 of shape"):
        Measured(rows=SMALL.sample(2, np.random.default_rng(0)), top1=np.zeros(3))
    with pytest.raises(MeasurementError, match="not a finite number"):
        Measured(rows=SMALL.smallest(), top1=np.array([np.nan]))
    template = replace(TEMPLATE, objectives={"error": cost})
    with pytest.raises(ConfigError, match="objectives are costs"):
        refine(template, samples(0, 20), fit=FIT, evaluate=Truth(), settings=SETTINGS, seed=0)

    def too_few(archs: list[Arch]) -> Sequence[float]:
        return [0.5]

    with pytest.raises(MeasurementError, match="8 archs to measure, but 1 measurements"):
        refine(TEMPLATE, samples(0, 20), fit=FIT, evaluate=too_few, settings=SETTINGS, seed=0)
