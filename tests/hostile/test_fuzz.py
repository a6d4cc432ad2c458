"""The short form of ``make fuzz``: every parser and every file of a run, some cases of each."""

from __future__ import annotations

from pathlib import Path

from tests.hostile.fuzz import fuzz, table
from tests.hostile.subjects import make_subjects
from tests.hostile.trial import Tally, attempt

CASES = 25
MOST_MB = 1000.0


def test_nothing_is_lost(world: Path, tmp_path: Path) -> None:
    tallies: dict[str, Tally] = {}
    for name, subject in make_subjects(world, tmp_path).items():
        tallies[name] = Tally()
        fuzz(subject, tallies[name], cases=max(3, round(CASES * subject.weight)), start=7)
    lost = {name: (dict(t.lost), t.example) for name, t in tallies.items() if t.lost}
    assert not lost, f"{lost}\n{table(tallies)}"
    assert max(tally.peak_mb for tally in tallies.values()) < MOST_MB, table(tallies)
    assert all(tally.refused for name, tally in tallies.items() if name in ("card.json", "arch"))


def test_a_foreign_error_is_noticed() -> None:
    tally = Tally()
    for case in ("1", "x", ""):
        attempt(tally, lambda text: {"1": 1}[text], case)
    assert tally.accepted == 1 and sum(tally.lost.values()) == 2 and tally.example == "x"
