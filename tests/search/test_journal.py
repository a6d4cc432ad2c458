"""Evolution with a journal: cut anywhere it ends the same and evaluates nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onceforall.encoding import Rows
from onceforall.errors import ConfigError
from onceforall.search.evolution import Best, Evolution, evolve
from onceforall.search.nsga2 import nsga2
from onceforall.search.problem import Problem
from tests.search.test_nsga2 import ENCODING, cost, error

SETTINGS = Evolution(population_size=20, starts=2, elites=3, children=3)


class Counted:
    """An objective whose values depend on the batch in the last bit, as a predictor's may."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.calls: list[bytes] = []
        self.dies_after = dies_after

    def __call__(self, rows: Rows) -> np.ndarray:
        self.calls += [row.tobytes() for row in rows]
        if self.dies_after is not None and len(self.calls) > self.dies_after:
            raise KeyboardInterrupt
        values = error(rows) * (1 + len(rows) * np.finfo(float).eps)
        values[rows[:, 0] == rows[:, 1]] = np.nan
        return values


def search(journal: Path | None, objective: Counted, *, seed: int = 5, limit: float = 15.0) -> Best:
    problem = Problem(
        encoding=ENCODING,
        objectives={"error": objective},
        costs={"cost": cost},
        limits={"cost": limit},
    )
    return evolve(problem, seed=seed, max_evaluations=250, settings=SETTINGS, journal=journal)


def test_a_journal_changes_nothing(tmp_path: Path) -> None:
    assert search(tmp_path / "journal.jsonl", Counted()) == search(None, Counted())


def test_a_journal_cut_anywhere_gives_the_same_best_and_the_same_journal(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    full = Counted()
    expected = search(whole, full)
    assert expected.evaluations == len(full.calls) > 200
    data = whole.read_bytes()
    ends = [i for i, byte in enumerate(data) if byte == ord("\n")]
    around_lines = [i + shift for i in ends[:: max(1, len(ends) // 6)] for shift in (0, 1, 2)]
    for position in [0, 1, *range(50, len(data), len(data) // 9), *around_lines, len(data)]:
        cut.write_bytes(data[:position])
        rest = Counted()
        assert search(cut, rest) == expected
        assert cut.read_bytes() == data
        # What is left is asked for in the same order; nothing in the file is asked for again.
        assert rest.calls == full.calls[len(full.calls) - len(rest.calls) :]
    assert rest.calls == []


def test_killed_in_the_middle_of_an_evaluation_it_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    for dies_after in (30, 90, 40):
        with pytest.raises(KeyboardInterrupt):
            search(journal, Counted(dies_after))
    assert search(journal, Counted()) == search(None, Counted())


def test_a_longer_search_goes_on_from_a_shorter_one(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    problem = Problem(
        encoding=ENCODING, objectives={"error": error}, costs={"cost": cost}, limits={"cost": 15.0}
    )
    short = evolve(problem, seed=1, max_evaluations=60, settings=SETTINGS, journal=journal)
    rest = Counted()
    longer = replace(problem, objectives={"error": rest})
    found = evolve(longer, seed=1, max_evaluations=250, settings=SETTINGS, journal=journal)
    assert len(rest.calls) <= found.evaluations - short.evaluations + 50
    assert found.objective <= short.objective


def test_the_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    search(journal, Counted())
    before = journal.read_bytes()
    with pytest.raises(ConfigError, match="is of another search: its seed is 5, not 6"):
        search(journal, Counted(), seed=6)
    with pytest.raises(ConfigError, match="its limits is"):
        search(journal, Counted(), limit=16.0)
    assert journal.read_bytes() == before
    other = tmp_path / "nsga2.jsonl"
    objectives = {"error": error, "cost": cost}
    nsga2(Problem(encoding=ENCODING, objectives=objectives), seed=5, generations=1, journal=other)
    with pytest.raises(ConfigError, match="its search is None, not evolution"):
        search(other, Counted())


@pytest.mark.parametrize("find", ["evolve", "nsga2"])
def test_a_journal_of_another_predictor_is_refused(find: str, tmp_path: Path) -> None:
    """Values of two predictors, or of two latency tables, are never mixed."""
    journal = tmp_path / "journal.jsonl"
    problem = Problem(
        encoding=ENCODING,
        objectives={"error": error},
        costs={"cost": cost},
        limits={"cost": 15.0},
        sources={"predictor": "0123", "latency_ms": "4567"},
    )

    def search_with(given: Problem) -> None:
        if find == "evolve":
            evolve(given, seed=5, max_evaluations=60, settings=SETTINGS, journal=journal)
        else:
            nsga2(given, seed=5, population_size=8, generations=2, journal=journal)

    search_with(problem)
    search_with(problem)
    for name in ("predictor", "latency_ms"):
        other = replace(problem, sources={**problem.sources, name: "89ab"})
        with pytest.raises(ConfigError, match=r"sources is .*, not .*89ab.*remove the file"):
            search_with(other)
