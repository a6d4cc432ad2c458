import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceforall.errors import ConfigError
from onceforall.measure.ranking import kendall_tau


def brute_force(x: list[int], y: list[int]) -> float:
    pairs = list(itertools.combinations(range(len(x)), 2))
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
    in_x, in_y = (sum(s[k] != 0 for s in signs) for k in range(2))
    if not in_x or not in_y:
        return 0.0
    return float(sum(a * b for a, b in signs) / math.sqrt(in_x * in_y))


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), max_size=25))
def test_equals_counting_every_pair(points: list[tuple[int, int]]) -> None:
    x, y = [p[0] for p in points], [p[1] for p in points]
    assert kendall_tau(x, y) == pytest.approx(brute_force(x, y), abs=1e-12)
    assert kendall_tau(y, x) == pytest.approx(kendall_tau(x, y), abs=1e-12)


def test_known_answers() -> None:
    assert kendall_tau([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert kendall_tau([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert kendall_tau([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    # The worked example of Kendall's tau-b with ties: 2 / sqrt(5 * 6).
    assert kendall_tau([1, 1, 2, 3], [1, 2, 4, 3]) == pytest.approx(3 / math.sqrt(5 * 6))
    assert kendall_tau([5, 5, 5], [1, 2, 3]) == 0
    assert kendall_tau([], []) == 0


def test_many_numbers_are_quick() -> None:
    x = np.random.default_rng(0).normal(size=200_000)
    assert kendall_tau(x, x**3) == 1
    assert kendall_tau(x, -x) == -1


def test_what_has_no_rank_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 numbers against 2"):
        kendall_tau([1, 2, 3], [1, 2])
    with pytest.raises(ConfigError, match="NaN"):
        kendall_tau([1, math.nan], [1, 2])
