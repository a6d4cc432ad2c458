import numpy as np
import pytest

from onceforall.errors import ConfigError, InfeasibleError
from onceforall.predictors.sampling import LearningCurve, learning_curve, stratified_rows

WEIGHTS = np.arange(1, 11)


def draw(count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 3, size=(count, 10), dtype=np.uint8)


def cost(rows: np.ndarray) -> np.ndarray:
    return 20 + (rows * WEIGHTS).sum(1)


def test_rows_are_distinct_and_spread_over_the_cost() -> None:
    rows = stratified_rows(draw, cost, count=100, rng=np.random.default_rng(0))
    assert rows.shape == (100, 10) and rows.dtype == np.uint8
    assert len(np.unique(rows, axis=0)) == 100
    plain = cost(draw(100, np.random.default_rng(0)))
    assert cost(rows).std() > 1.5 * plain.std()
    # Any beginning is spread as well.
    assert cost(rows[:20]).std() > 1.3 * plain.std()


def test_the_same_generator_gives_the_same_rows() -> None:
    first, second, other = (
        stratified_rows(draw, cost, count=30, rng=np.random.default_rng(s)) for s in (1, 1, 2)
    )
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_a_space_that_is_too_small_says_so() -> None:
    def one(count: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(0, 2, size=(count, 1), dtype=np.uint8)

    assert len(stratified_rows(one, lambda r: 1.0 + r[:, 0], count=2, rng=np.random.default_rng(0)))
    with pytest.raises(InfeasibleError, match="3 distinct archs are wanted, the space gave 2"):
        stratified_rows(one, lambda r: 1.0 + r[:, 0], count=3, rng=np.random.default_rng(0))


def test_more_samples_help_while_the_rank_rises() -> None:
    rng = np.random.default_rng(0)
    choices = rng.integers(0, 3, size=(240, 12))
    x = np.eye(3)[choices].reshape(240, -1)
    y = np.tanh((choices * np.linspace(0, 1, 12)).sum(1) / 6 - 1)
    y = y + 0.02 * rng.standard_normal(240)
    few = learning_curve(x[:34], y[:34])
    many = learning_curve(x, y, tolerance=0.05)
    assert (few.num_half, few.num_full) == (11, 22)
    assert few.more_help and not many.more_help
    assert many.tau_full > few.tau_full
    with pytest.raises(ConfigError, match="20 archs are too few for a learning curve"):
        learning_curve(x[:20], y[:20])


def test_the_rule_is_the_gain_of_the_last_doubling() -> None:
    def curve(gain: float) -> LearningCurve:
        return LearningCurve(
            num_half=50, num_full=100, tau_half=0.8, tau_full=0.8 + gain, tolerance=0.01
        )

    assert curve(0.02).more_help and not curve(0.005).more_help and not curve(-0.02).more_help
