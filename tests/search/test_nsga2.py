"""NSGA-II: known fronts, exact resume, limits, determinism."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onceforall.encoding import Encoding, Rows
from onceforall.errors import ConfigError, InfeasibleError
from onceforall.genes import StageChoices
from onceforall.pareto import pareto_front
from onceforall.search.moves import Moves
from onceforall.search.nsga2 import Front, nsga2
from onceforall.search.polish import _feasible_front, _walks
from onceforall.search.problem import Problem
from onceforall.space import SearchSpace

SPACE = SearchSpace(
    resolutions=(8, 12, 16),
    stages=(
        StageChoices(num_blocks=2, depths=(1, 2), kernel_sizes=(3, 5), expand_ratios=(2, 3, 4)),
        StageChoices(num_blocks=2, depths=(1, 2), kernel_sizes=(3, 5), expand_ratios=(2, 3)),
    ),
)
ENCODING = Encoding(SPACE)


def everything() -> Rows:
    """Return every arch of the space, canonical."""
    options = [range(n) for n in ENCODING.num_options]
    grid = np.stack(np.meshgrid(*options, indexing="ij"), axis=-1).reshape(-1, len(options))
    return ENCODING.unique(grid.astype(np.uint8))


def cost(rows: Rows) -> np.ndarray:
    """A cost with interactions: deeper and larger is dearer, more so at high resolution."""
    counted = np.where(ENCODING.active(rows), rows + 1, 0).astype(float)
    return (counted.sum(axis=1)) * (1 + rows[:, 0]) + 0.1 * counted[:, -1]


def error(rows: Rows) -> np.ndarray:
    """An error that falls with every choice, some far more than others."""
    counted = np.where(ENCODING.active(rows), rows + 1, 0).astype(float)
    weights = 1.0 + np.arange(rows.shape[1]) * 7 % 5
    return 1 / (1 + counted @ weights) + 0.01 * (counted[:, 2] == 1)


def problem(**limits: float) -> Problem:
    return Problem(
        encoding=ENCODING,
        objectives={"error": error, "cost": cost},
        costs={"cost": cost, "error": error},
        limits=limits,
    )


def points(front: Front) -> set[tuple[float, ...]]:
    return {tuple(round(v, 9) for v in p.objectives.values()) for p in front.points}


def true_front(limit: float = np.inf) -> set[tuple[float, ...]]:
    rows = everything()
    rows = rows[cost(rows) <= limit]
    scores = np.stack([error(rows), cost(rows)], axis=1)
    return {tuple(np.round(s, 9)) for s in scores[pareto_front(scores)]}


def search(journal: Path | None = None, **limits: float) -> Front:
    return nsga2(problem(**limits), seed=3, population_size=32, generations=12, journal=journal)


def test_the_whole_space_is_as_large_as_it_says() -> None:
    assert len(everything()) == SPACE.size


def test_it_finds_the_true_front() -> None:
    assert points(search()) == true_front()


def test_it_finds_the_true_front_under_a_limit_and_never_exceeds_it() -> None:
    front = search(cost=15.0)
    assert points(front) == true_front(15.0)
    assert all(point.costs["cost"] <= 15.0 for point in front.points)


def test_hypervolume_never_falls_by_the_end() -> None:
    front = search()
    assert len(front.hypervolume) == 14
    assert front.hypervolume[-1] == max(front.hypervolume) > 0


def test_a_journal_cut_anywhere_gives_the_same_front(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    expected = search(whole)
    data = whole.read_bytes()
    for position in [0, 1, 57, *range(100, len(data), len(data) // 7), len(data) - 1, len(data)]:
        journal = tmp_path / "cut.jsonl"
        journal.write_bytes(data[:position])
        assert search(journal) == expected
        assert journal.read_bytes() == data


def test_another_process_finds_the_same_front() -> None:
    code = "from tests.search.test_nsga2 import *; print(sorted(points(search())))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "12345", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(sorted(points(search())))


def test_an_infeasible_limit_names_the_least_and_its_arch() -> None:
    least = cost(everything()).min()
    with pytest.raises(InfeasibleError, match=rf"cost=1 .* smallest reachable value is {least:g}"):
        search(cost=1.0)


def test_limits_that_only_conflict_together_say_so() -> None:
    rows = everything()
    cheap, good = float(cost(rows).min()) * 1.05, float(error(rows).min()) * 1.05
    with pytest.raises(InfeasibleError, match="but not together"):
        search(cost=cheap, error=good)


def test_a_limit_on_nothing_known_is_refused() -> None:
    with pytest.raises(ConfigError, match="'speed' is not one of cost, error"):
        problem(speed=1)


def test_the_front_holds_what_it_began_with(tmp_path: Path) -> None:
    rows = everything()
    best = rows[np.argsort(error(rows) + cost(rows) / 1000)[:40]]
    journal = tmp_path / "journal.jsonl"
    tiny = {"seed": 1, "population_size": 4, "generations": 2}
    front = nsga2(problem(), **tiny, start=best, journal=journal)
    scores = np.stack([error(best), cost(best)], axis=1)
    found = np.array([list(p.objectives.values()) for p in front.points])
    assert (found <= scores[:, None] + 1e-12).all(axis=2).any(axis=1).all()
    journal.write_bytes(journal.read_bytes()[:-5])
    assert nsga2(problem(), **tiny, start=best, journal=journal) == front
    with pytest.raises(ConfigError, match="is of another search: its start is"):
        nsga2(problem(), **tiny, start=best[:3], journal=journal)


def test_points_whose_cost_is_summed_in_another_order_are_walked_from() -> None:
    """A sum over several archs and over one may differ in the last bit: both are the same cost."""

    def trembling(rows: Rows) -> np.ndarray:
        return np.nextafter(cost(rows), np.inf) if len(rows) == 1 else cost(rows)

    shaky = Problem(
        encoding=ENCODING,
        objectives={"error": error, "cost": trembling},
        costs={"cost": trembling, "error": error},
        limits={},
    )
    front, scores = _feasible_front(shaky, everything()[::7])
    reached, _ = _walks(shaky, Moves(ENCODING), front, scores, seed=0)
    assert len(reached) >= min(len(front), 8)
