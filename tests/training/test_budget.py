"""Keeping a time: with a clock that is faked, decisions fit, are written down, and are replayed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from onceforall.errors import Interrupted
from onceforall.files import read_jsonl
from onceforall.training import budget
from onceforall.training.budget import Pace, fit_steps
from onceforall.training.engine import train
from onceforall.training.plan import Plan, delayed_plan
from onceforall.training.settings import Callbacks, EpochEnd, Event, TrainOptions
from tests.training.tiny import tiny_batches, tiny_net

EXPECTED_S = 1.0


class FakeClock:
    """Moves by a number of seconds for every step that is taken."""

    def __init__(self, budget_s: float) -> None:
        self.now, self.step_s, self.budget_s = 0.0, EXPECTED_S, budget_s
        self.is_frozen = False

    def left_s(self) -> float:
        return self.budget_s - self.now

    def tick(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        self.now += 0.0 if self.is_frozen else self.step_s
        return images, labels


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeClock]:
    fake = FakeClock(budget_s=60.0)
    monkeypatch.setattr(budget.time, "monotonic", lambda: fake.now)
    yield fake


def plan(epochs: float = 10) -> Plan:
    return delayed_plan(epochs=epochs, learning_rate=0.1, reference_batch=16, subnets_per_step=2)


def run(
    folder: Path,
    clock: FakeClock,
    *,
    stop_at: int = -1,
    slow_from: int = -1,
    may_grow: bool = True,
    after_s: float = 0.0,
    probe_s: float = 0.0,
) -> tuple[dict[str, Tensor], list[Event]]:
    """Train for a minute of fake seconds: 60 steps of 6 an epoch, if all goes well."""
    events: list[Event] = []
    seen = 0

    def tick(images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        nonlocal seen
        seen += 1
        clock.step_s = 2 * EXPECTED_S if 0 <= slow_from < clock.now else EXPECTED_S
        return clock.tick(images, labels, step)

    def probe(end: EpochEnd) -> Event:
        clock.now += probe_s if end.epochs_done in (1, 8) else 0.0
        return {}

    net = tiny_net()
    train(
        net,
        plan(),
        tiny_batches(),
        folder=folder,
        options=TrainOptions(
            seed=0,
            checkpoint_every_steps=4,
            pace=Pace(
                seconds_left=lambda crowding: clock.left_s() - crowding * after_s,
                step_seconds=(EXPECTED_S, EXPECTED_S),
                every_s=4.0,
                may_grow=may_grow,
            ),
        ),
        callbacks=Callbacks(
            on_event=events.append,
            change_batch=tick,
            should_stop=lambda: seen == stop_at,
            after_epoch=probe,
        ),
    )
    return net.state_dict(), events


def test_a_plan_that_fits_is_left_alone(tmp_path: Path, clock: FakeClock) -> None:
    run(tmp_path, clock)
    assert clock.now == 60
    assert read_jsonl(tmp_path / "pace.jsonl") == []


def test_what_is_left_is_shortened_when_steps_get_slow(tmp_path: Path, clock: FakeClock) -> None:
    _, events = run(tmp_path, clock, slow_from=30)
    assert 55 <= clock.now <= 63
    assert read_jsonl(tmp_path / "pace.jsonl")
    assert [e for e in events if e["event"] == "pace"]


def test_what_comes_after_is_left_more_time_when_steps_get_slow(
    tmp_path: Path, clock: FakeClock
) -> None:
    clock.budget_s = 80.0
    run(tmp_path / "even", clock, after_s=20.0)
    assert 55 <= clock.now <= 63
    clock.now = 0.0
    run(tmp_path / "slow", clock, after_s=20.0, slow_from=10)
    # Twenty seconds of before now take forty.
    assert 36 <= clock.now <= 44


def test_steps_that_are_a_little_slower_leave_nothing_more(
    tmp_path: Path, clock: FakeClock
) -> None:
    clock.budget_s = 80.0
    usual = clock.tick

    def tick(images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        clock.now += 0.2 if clock.now > 10 else 0.0
        return usual(images, labels, step)

    clock.tick = tick  # type: ignore[method-assign]
    run(tmp_path, clock, after_s=20.0)
    # They count as they are; twenty seconds of before are still twenty, and not twenty-four.
    assert 58 <= clock.now <= 62


def test_a_phase_slower_than_expected_says_nothing_of_what_comes_after(
    tmp_path: Path, clock: FakeClock
) -> None:
    clock.budget_s = 100.0
    run(tmp_path, clock, after_s=40.0, slow_from=31)  # the phases are thirty steps each
    assert 55 <= clock.now <= 63


def test_what_lies_between_steps_does_not_make_them_slow(tmp_path: Path, clock: FakeClock) -> None:
    # A probe as long as an epoch, early and late. Were it taken for slow steps, what comes after
    # training would be thought to take twice as long, and training would end at half of its time.
    clock.budget_s = 110.0
    run(tmp_path, clock, after_s=40.0, probe_s=6.0)
    assert 66 <= clock.now <= 74


def test_one_slow_look_decides_nothing(tmp_path: Path, clock: FakeClock) -> None:
    clock.budget_s = 100.0
    usual = clock.tick

    def tick(images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        clock.now += 8.0 if step == 40 else 0.0
        return usual(images, labels, step)

    clock.tick = tick  # type: ignore[method-assign]
    run(tmp_path, clock, after_s=40.0)
    assert 56 <= clock.now <= 64


def test_time_that_is_left_over_is_used(tmp_path: Path, clock: FakeClock) -> None:
    clock.budget_s = 90.0
    run(tmp_path, clock)
    assert 86 <= clock.now <= 92


def test_epochs_that_the_user_gave_are_not_exceeded(tmp_path: Path, clock: FakeClock) -> None:
    clock.budget_s = 90.0
    run(tmp_path, clock, may_grow=False)
    assert clock.now == 60


def test_no_time_at_all_ends_every_phase_after_a_step(tmp_path: Path, clock: FakeClock) -> None:
    clock.budget_s = 5.0
    run(tmp_path, clock)
    assert clock.now < 25


def test_an_interrupted_training_decides_as_before(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, _ = run(tmp_path / "straight", clock, slow_from=30)
    decided = read_jsonl(tmp_path / "straight/pace.jsonl")
    clock.now = 0.0
    with pytest.raises(Interrupted):
        run(tmp_path / "again", clock, slow_from=30, stop_at=37)
    for line in read_jsonl(tmp_path / "again/pace.jsonl"):
        assert line in decided
    # It goes on in no time at all, and still decides as it did.
    clock.is_frozen = True
    (tmp_path / "again/pace.jsonl").write_bytes((tmp_path / "straight/pace.jsonl").read_bytes())
    again, events = run(tmp_path / "again", clock, slow_from=30)
    assert [event for event in events if event["event"] == "epoch"], "nothing was left to train"
    assert all(torch.equal(again[name], tensor) for name, tensor in straight.items())


def test_the_learning_rate_has_no_jumps(tmp_path: Path, clock: FakeClock) -> None:
    rates: list[float] = []
    original: Callable[..., None] = torch.optim.SGD.step  # type: ignore[assignment]

    def step(optimizer: torch.optim.SGD) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        original(optimizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", step)
        run(tmp_path, clock, slow_from=20)
    phase = rates[: len(rates) // 2 - 2]
    warm = 6  # an epoch of warm-up
    assert max(abs(a - b) for a, b in zip(phase[warm:], phase[warm + 1 :], strict=False)) < 0.02


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-9])
def test_every_phase_keeps_a_step(seconds: float) -> None:
    assert fit_steps([100, 50], [1.0, 2.0], seconds) == [1, 1]


def test_phases_change_by_the_same_factor() -> None:
    assert fit_steps([100, 50], [1.0, 2.0], 100.0) == [50, 25]
    assert fit_steps([100, 50], [1.0, 2.0], 400.0) == [200, 100]


def test_real_time_is_kept(tmp_path: Path) -> None:
    """Sleeps stand for work: half way, steps take three times as long."""
    end = time.monotonic() + 4.0
    steps = 0

    def slow(images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        nonlocal steps
        steps += 1
        time.sleep(0.01 if time.monotonic() < end - 2 else 0.03)
        return images, labels

    train(
        tiny_net(),
        plan(epochs=60),
        tiny_batches(),
        folder=tmp_path,
        options=TrainOptions(
            seed=0,
            pace=Pace(
                seconds_left=lambda crowding: end - time.monotonic(),
                step_seconds=(0.012, 0.012),
                every_s=0.1,
            ),
        ),
        callbacks=Callbacks(change_batch=slow),
    )
    assert steps > 20  # how many more is up to the machine; that they fill the time is the claim
    assert abs(time.monotonic() - end) < 1.0
