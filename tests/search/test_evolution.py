"""Constrained evolution: the true best of a small space, limits, bounds, published figures."""

from __future__ import annotations

import json
import random
import sys

import numpy as np
import pytest

from onceforall.arch import Arch
from onceforall.cli import _status
from onceforall.errors import InfeasibleError
from onceforall.measure.latency.published import read_published_latencies
from onceforall.predictors.published import read_published_predictor
from onceforall.published_archs import arch_from_published
from onceforall.search import evolution
from onceforall.search.evolution import evolve
from onceforall.search.problem import Problem
from onceforall.supernets.families import mobilenet_v3, published_spec
from tests.search.test_nsga2 import ENCODING, cost, error, everything
from tests.shared_data import shared_data

W12 = published_spec("ofa_mbv3_d234_e346_k357_w1.2")


def problem(limit: float) -> Problem:
    return Problem(
        encoding=ENCODING,
        objectives={"error": error},
        costs={"cost": cost},
        limits={"cost": limit},
    )


@pytest.mark.parametrize("limit", [9.0, 15.0, 22.0, 1e9])
def test_it_finds_the_best_of_a_small_space(limit: float) -> None:
    rows = everything()
    best = evolve(problem(limit), seed=0, max_evaluations=3000)
    assert best.objective == pytest.approx(error(rows[cost(rows) <= limit]).min())
    assert best.costs["cost"] <= limit
    row = ENCODING.from_archs([best.arch])
    assert float(error(row)[0]) == best.objective


def test_the_same_seed_gives_the_same_best_and_evaluations_are_bounded() -> None:
    first, second = (evolve(problem(15.0), seed=4, max_evaluations=300) for _ in range(2))
    assert first == second
    assert first.evaluations <= 300 + 200  # a step that has begun is finished


def test_limits_hold_for_every_seed() -> None:
    rng = random.Random(0)
    for seed in range(8):
        limit = rng.uniform(8, 25)
        assert evolve(problem(limit), seed=seed, max_evaluations=200).costs["cost"] <= limit


def test_an_infeasible_limit_is_an_error() -> None:
    with pytest.raises(InfeasibleError, match="smallest reachable value"):
        evolve(problem(0.5), seed=0)


@pytest.mark.parametrize(
    ("setting", "resolution", "expected"),
    [
        ({"ks": 7, "e": 6, "d": 4}, 224, 0.83593),
        ({"ks": 5, "e": 4, "d": 3}, 192, 0.80593),
        ({"ks": 3, "e": 3, "d": 2}, 160, 0.75312),
    ],
)
def test_the_published_predictor_gives_its_figures(
    setting: dict[str, int], resolution: int, expected: float
) -> None:
    predictor = read_published_predictor(shared_data("published", "acc_predictor.pth"))
    space = mobilenet_v3().space.restrict(resolution=(160, 192, 224))
    arch = arch_from_published(space, setting, resolution=resolution)
    assert float(predictor.predict([arch], space)[0]) == pytest.approx(expected, abs=6e-6)


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [
        (160, (47.7733, 20.0326, 9.8903)),
        (176, (58.0379, 24.2102, 11.7214)),
        (192, (67.5617, 27.8356, 13.3255)),
        (208, (81.1924, 33.4705, 15.8341)),
        (224, (92.3980, 37.8064, 17.7691)),
    ],
)
def test_the_published_tables_give_their_figures(
    resolution: int, expected: tuple[float, ...]
) -> None:
    table = read_published_latencies(shared_data("published", "note10"))[resolution]
    space = W12.space
    archs = (space.largest, space.uniform(kernel_size=5, expand_ratio=4, depth=3), space.smallest)
    for arch, milliseconds in zip(archs, expected, strict=True):
        assert table.network_ms(W12.blueprint(arch)) == pytest.approx(milliseconds, abs=6e-5)


def test_the_published_search_from_the_command_line(monkeypatch, capsys) -> None:
    folder = shared_data("published")
    arguments = ["ofa", "search", "--net", "ofa_mbv3_d234_e346_k357_w1.2"]
    arguments += ["--predictor", f"{folder}/acc_predictor.pth", "--latency", f"{folder}/note10"]
    arguments += ["--limit", "latency_ms=15,40", "--seed", "3", "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert _status() == 0
    found = json.loads(capsys.readouterr().out)
    assert [best["limits"]["latency_ms"] for best in found] == [15, 40]
    for best, least in zip(found, (0.78750, 0.84081), strict=True):
        assert best["predicted_top1"] >= least
        assert best["latency_ms"] <= best["limits"]["latency_ms"]
        assert {"arch", "macs", "evaluations", "seconds"} <= best.keys()
        arch = Arch.from_json(best["arch"])
        table = read_published_latencies(folder / "note10")[arch.resolution]
        assert np.isclose(table.network_ms(W12.blueprint(arch)), best["latency_ms"])


def test_time_is_the_only_bound_where_it_is_given(monkeypatch) -> None:
    monkeypatch.setattr(evolution, "_DEFAULT_EVALUATIONS", 50)
    assert evolve(problem(15.0), seed=0).evaluations < 50 + 200
    assert evolve(problem(15.0), seed=0, max_seconds=0.5).evaluations > 300
