"""Try every parser and every file of a run with damaged and hostile input, and write a table.

python -m tests.hostile.fuzz --minutes 5 --table docs/hostile-input.md
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.hostile.subjects import Subject, make_subjects
from tests.hostile.trial import Tally, attempt, memory
from tests.hostile.world import make_world

_BATCH = 100
_MARKS = ("<!-- table -->", "<!-- end of table -->")


def fuzz(subject: Subject, tally: Tally, *, cases: int, start: int) -> None:
    """Try ``cases`` cases of a subject; those of one ``start`` are always the same."""

    @seed(start)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(subject.cases)
    def one(case: Any) -> None:
        attempt(tally, subject.act, case)

    with memory(tally), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one()


def table(tallies: dict[str, Tally]) -> str:
    """Return the table of what was tried."""
    lines = [
        "| what was damaged | cases | read | refused in one line | lost | slowest | memory |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {name} | {t.cases:,} | {t.accepted:,} | {t.refused:,} | {sum(t.lost.values())} | "
        f"{t.slowest_s:.1f} s | {max(0.0, t.peak_mb):.0f} MB |"
        for name, t in tallies.items()
    ]
    every = list(tallies.values())
    lost = sum(sum(t.lost.values()) for t in every)
    lines.append(
        f"| **all** | {sum(t.cases for t in every):,} | {sum(t.accepted for t in every):,} | "
        f"{sum(t.refused for t in every):,} | {lost} | {max(t.slowest_s for t in every):.1f} s | "
        f"{max(t.peak_mb for t in every):.0f} MB |"
    )
    return "\n".join(lines)


def write_table(page: Path, tallies: dict[str, Tally]) -> None:
    """Replace the table of a page."""
    before, _, rest = page.read_text().partition(_MARKS[0])
    after = rest.partition(_MARKS[1])[2]
    page.write_text(f"{before}{_MARKS[0]}\n{table(tallies)}\n{_MARKS[1]}{after}")


def main() -> int:
    """Fuzz for some minutes; exit status 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--table", type=Path, help="page whose table is replaced")
    parser.add_argument("--only", default="", help="part of the name of what is tried")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        world, scratch = Path(place) / "world", Path(place) / "scratch"
        world.mkdir()
        scratch.mkdir()
        subjects = {
            name: subject
            for name, subject in make_subjects(make_world(world), scratch).items()
            if given.only in name
        }
        tallies = {name: Tally() for name in subjects}
        end, number = time.monotonic() + 60 * given.minutes, 0
        while time.monotonic() < end or number == 0:
            for name, subject in subjects.items():
                cases = max(1, round(_BATCH * subject.weight))
                fuzz(subject, tallies[name], cases=cases, start=given.seed + number)
                number += 1
            if given.table is not None:  # a round at a time: what was tried is kept
                write_table(given.table, tallies)
    print(f"seed {given.seed}")
    print(table(tallies))
    for name, tally in tallies.items():
        for what, count in tally.lost.most_common():
            print(f"lost: {name}: {count} x {what}: {str(tally.example)[:300]!r}")
    return int(any(tally.lost for tally in tallies.values()))


if __name__ == "__main__":
    raise SystemExit(main())
