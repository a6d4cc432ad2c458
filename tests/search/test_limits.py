"""Limits as users give them, and the least that a space can reach."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onceforall.encoding import Encoding
from onceforall.errors import ConfigError
from onceforall.search.limits import check_limits, each_limit
from onceforall.search.problem import cautious_error, descend
from tests.spaces import TINY


def test_one_result_for_each_bound_of_the_name_that_has_several() -> None:
    assert each_limit({}) == [{}]
    assert each_limit({"macs": [5.0]}) == [{"macs": 5.0}]
    assert each_limit({"latency_ms": [1.0, 2.0], "macs": [5.0]}) == [
        {"latency_ms": 1.0, "macs": 5.0},
        {"latency_ms": 2.0, "macs": 5.0},
    ]
    with pytest.raises(ConfigError, match="only one limit may have several bounds, not a and b"):
        each_limit({"a": [1, 2], "b": [3, 4], "c": [5]})


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"flops": 1.0}, "limit 'flops' is not one of latency_ms, macs, params"),
        ({"macs": 0.0}, "limit macs=0 is not a number above 0"),
        ({"latency_ms": -2.0}, "limit latency_ms=-2 is not a number above 0"),
        ({"params": float("nan")}, "limit params=nan is not a number above 0"),
    ],
)
def test_limits_are_bounds_of_known_costs(limits: dict[str, float], message: str) -> None:
    check_limits({"latency_ms": 1.0, "macs": 2.0, "params": 3.0, "peak_activation_bytes": 4.0})
    with pytest.raises(ConfigError, match=message):
        check_limits(limits)


def every_row(encoding: Encoding) -> np.ndarray:
    options = [range(int(count)) for count in encoding.num_options]
    return encoding.unique(np.array(list(itertools.product(*options)), dtype=np.uint8))


@pytest.mark.parametrize("seed", range(5))
def test_a_descent_finds_the_least_sum_over_choices(seed: int) -> None:
    encoding = Encoding(TINY)
    terms = np.random.default_rng(seed).random(
        (encoding.num_genes, int(encoding.num_options.max()))
    )

    def cost(rows: np.ndarray) -> np.ndarray:
        picked = terms[np.arange(encoding.num_genes), rows]
        return np.where(encoding.active(rows), picked, 0.0).sum(axis=1)

    least = cost(every_row(encoding)).min()
    assert cost(descend(encoding, cost)) == pytest.approx(least)


def test_what_is_not_a_number_is_never_the_least() -> None:
    encoding = Encoding(TINY)

    def cost(rows: np.ndarray) -> np.ndarray:
        return np.where(rows[:, 0] == 0, np.nan, 1.0 + rows.sum(axis=1))

    found = descend(encoding, cost)
    assert found[0, 0] == 1 and cost(found) == 2.0


def test_caution_takes_standard_deviations_off() -> None:
    def predict(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(rows), 0.8), np.full(len(rows), 0.05)

    rows = np.zeros((3, 1), dtype=np.uint8)
    for num_stds, expected in ((0.0, 0.2), (2.0, 0.3), (-1.0, 0.15)):
        assert cautious_error(predict, num_stds=num_stds)(rows) == pytest.approx([expected] * 3)
