"""A stated spread that the next measurement keeps to, on a machine whose pace changes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from onceforall.measure.latency import repeated
from onceforall.measure.latency.measure import Latency
from onceforall.measure.latency.repeated import Repeated, measure_repeatedly
from onceforall.measure.latency.targets import Candidate, Hardware, OrtCpu

HARDWARE = Hardware(device="made up", cores=2, runtime="none", system="none")
A, B = (Candidate(plan=None, resolution=8, name=name) for name in "ab")


def latency(name: str, ms: float) -> Latency:
    return Latency(
        name=name,
        latency_ms=ms,
        latency_mad_ms=0.01 * ms,
        latency_p90_ms=1.1 * ms,
        repeats=20,
        disturbed=0,
        sentinel_ms=1.0,
        sentinel_spread=1.0,
        batch_size=1,
        resolution=8,
        target="ort-cpu",
        threads=1,
        hardware=HARDWARE,
    )


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes another tenth more or less in each measurement."""
    pace = random.Random(0)

    def measure(candidates: list[Candidate], **settings: Any) -> list[Latency]:
        slowness = 1 + pace.uniform(-0.1, 0.1)
        return [latency(each.name, slowness) for each in candidates]

    monkeypatch.setattr(repeated, "measure_latency", measure)


@pytest.mark.usefixtures("moody")
def test_two_measurements_agree_within_their_stated_spreads() -> None:
    def measure() -> Repeated:
        (found,) = measure_repeatedly([A], target=OrtCpu())
        return found

    pairs = [(measure(), measure()) for _ in range(200)]
    agree = [abs(a.latency_ms - b.latency_ms) <= a.spread_ms + b.spread_ms for a, b in pairs]
    assert sum(agree) >= 0.98 * len(agree)
    # The samples' own deviation, which is what a single measurement states, would not do.
    naive = [abs(a.latency_ms - b.latency_ms) <= 0.02 for a, b in pairs]
    assert sum(naive) < 0.6 * len(naive)


@pytest.mark.usefixtures("moody")
def test_side_by_side_the_pace_of_the_machine_is_the_same() -> None:
    done: list[tuple[int, int]] = []
    a, b = measure_repeatedly(
        [A, B], target=OrtCpu(), rounds=4, progress=lambda *now: done.append(now)
    )
    assert [x.latency_ms for x in a.rounds] == [y.latency_ms for y in b.rounds]
    assert done == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_figures_are_those_of_the_rounds() -> None:
    found = Repeated(rounds=tuple(latency("a", ms) for ms in (1.0, 1.3, 1.1)))
    assert (found.latency_ms, found.low_ms, found.high_ms) == (1.1, 1.0, 1.3)
    assert found.spread_ms == pytest.approx(0.15)
    calm = Repeated(rounds=(latency("a", 1.0), latency("a", 1.001)))
    assert calm.spread_ms == pytest.approx(0.01, rel=0.01), "at least what samples deviate"
