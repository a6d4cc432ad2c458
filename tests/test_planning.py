"""What is chosen before a run starts: network, precision, processes, lengths."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch

from onceforall.errors import ConfigError
from onceforall.job import planning
from onceforall.job.config import RunConfig, resolve
from onceforall.job.planning import (
    Planned,
    Task,
    _with_readers,
    effort_seconds,
    evaluation_seconds,
    plan_config,
    rest_seconds,
)
from onceforall.job.recipes import ladder_for, recipe_for
from onceforall.measure.costs import count_macs
from onceforall.training.plan import delayed_plan
from onceforall.training.speed import Speed, Stopwatch, _host_forward_s

CPU = torch.device("cpu")
RATE = 60e9  # multiply-accumulates a second of the machine that is made up


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Two cores whose time is exactly in proportion to MACs; bfloat16 is twice as fast."""
    timed: list[int] = []

    def macs(watch: Stopwatch, arch: object) -> int:
        side = watch.net.space.resolutions[-1]
        return count_macs(watch.net.blueprint(arch), resolution=side)  # type: ignore[arg-type]

    def training_s(watch: Stopwatch, arch: object, *, autocast: bool) -> float:
        timed.append(macs(watch, arch))
        return 3 * macs(watch, arch) / RATE * (1 if autocast else 2)

    monkeypatch.setattr(Stopwatch, "training_s", training_s)
    monkeypatch.setattr(Stopwatch, "forward_s", lambda watch, arch: macs(watch, arch) / RATE)
    monkeypatch.setattr(planning, "usable_cores", lambda: 2)
    yield timed


def task(**changes: object) -> Task:
    facts: dict[str, object] = {
        "num_train": 4500, "num_valid": 500, "num_test": 500, "num_classes": 10, "image_side": 64,
        "given": frozenset(), "budget_s": 720.0, "effort": None, "world_size": 1,
    }  # fmt: skip
    return Task(**{**facts, **changes})  # type: ignore[arg-type]


def config(*flags: str, image_side: int = 64) -> RunConfig:
    recipe = recipe_for("x", image_side=image_side, num_train=5000, num_classes=10)
    return resolve(recipe, flags=flags)


def plan(found: Task, *flags: str) -> Planned:
    given = {flag.partition("=")[0] for flag in flags}
    given |= {key.partition(".")[0] for key in given}
    found = task(**{n: getattr(found, n) for n in Task.__slots__} | {"given": frozenset(given)})
    return plan_config(
        config(*flags), ladder_for(found.image_side), found, elapsed_s=5.0, device=CPU
    )


def largest_macs(planned: Planned) -> int:
    spec = planned.config.spec(10)
    return count_macs(spec.blueprint(spec.space.largest), resolution=spec.space.resolutions[-1])


@pytest.mark.usefixtures("machine")
def test_more_time_and_fewer_images_choose_larger_networks() -> None:
    sizes = [largest_macs(plan(task(budget_s=s))) for s in (60, 300, 720, 3600)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert largest_macs(plan(task(num_train=50_000))) < largest_macs(plan(task()))


@pytest.mark.usefixtures("machine")
def test_everything_left_open_is_decided_and_fits_the_time() -> None:
    planned = plan(task())
    train, estimate = planned.config.train, planned.estimate
    assert (train.autocast, train.ranks, train.threads, train.batch_size) == (True, 2, 1, 32)
    assert train.epochs is not None and train.epochs > 1
    total = 5 + estimate.train_s + estimate.evaluate_s + estimate.rest_s
    assert total == pytest.approx(720, rel=0.02)
    assert "in bfloat16 on 2 processes" in planned.why


@pytest.mark.usefixtures("machine")
def test_what_the_user_says_stays() -> None:
    flags = (
        "supernet.widths=[8,16]", "train.autocast=false", "train.threads=2",
        "evaluate.num_archs=77", "latency.budget_s=3", "search.num_candidates=9",
    )  # fmt: skip
    chosen = plan(task(), *flags).config
    assert chosen == resolve(
        chosen, flags=(*flags, "train.ranks=1")
    )  # nothing of it was changed, and one process was started
    assert chosen.supernet.widths == (8, 16)


@pytest.mark.usefixtures("machine")
def test_epochs_of_the_user_are_kept_and_bound_a_time() -> None:
    planned = plan(task(budget_s=None), "train.epochs=7", "train.ranks=1")
    assert planned.config.train.epochs == 7 and math.isinf(planned.budget_s)
    assert plan(task(), "train.epochs=2").config.train.epochs == 2


@pytest.mark.usefixtures("machine")
def test_a_short_training_starts_no_processes() -> None:
    assert plan(task(budget_s=None, num_train=100), "train.epochs=1").config.train.ranks == 1


@pytest.mark.usefixtures("machine")
def test_without_a_budget_the_effort_is_the_time() -> None:
    times = [plan(task(budget_s=None, effort=e)).budget_s for e in ("quick", "balanced", "best")]
    assert times[1] == pytest.approx(5 * times[0]) and times[2] == pytest.approx(4 * times[1])


def test_what_ships_is_timed_on_the_processor_whatever_trains() -> None:
    """A GPU that forwards in no time leaves what the processor does with the files."""
    common = {"largest_s": 3e-3, "smallest_s": 1e-3, "middle_s": 2e-3, "forward_s": 1e-3}
    slow, fast = (
        Speed(**common, host_forward_s=s, autocast=False, is_host=False) for s in (0.1, 0.001)
    )
    chosen, found = config(), task(num_valid=0, num_test=0)
    search = chosen.search
    runs = (search.num_candidates + search.num_models) * 25 * 0.1
    compared = search.num_models * 64 * 0.1
    difference = rest_seconds(chosen, slow, found, cores=1) - rest_seconds(
        chosen, fast, found, cores=1
    )
    fast_s = (search.num_candidates + search.num_models) * 0.1 + search.num_models * 64 * 0.001
    assert difference == pytest.approx(runs + compared - fast_s)
    # Ranks on GPUs do not help the one that ships.
    assert rest_seconds(chosen, slow, found, cores=4) == rest_seconds(chosen, slow, found, cores=1)
    host = dataclasses.replace(slow, is_host=True)
    assert rest_seconds(chosen, host, found, cores=4) < rest_seconds(chosen, host, found, cores=1)


def test_refining_takes_its_time() -> None:
    common = {"largest_s": 3e-3, "smallest_s": 1e-3, "middle_s": 2e-3, "forward_s": 1e-3}
    speed = Speed(**common, host_forward_s=1e-3, autocast=False, is_host=False)
    one_s = evaluation_seconds(config(), speed, num_valid=task().num_valid)
    plain, refined = (
        rest_seconds(config(f"search.refine_evaluations={n}"), speed, task(), cores=1)
        for n in (0, 200)
    )
    assert refined - plain == pytest.approx(200 * one_s)


def test_the_processor_is_timed_where_a_gpu_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = config().spec(10)
    watch = Stopwatch.of(spec, device=CPU, batch_size=2)
    assert _host_forward_s(watch, 0.3) == pytest.approx(0.1)
    timed = []
    monkeypatch.setattr(Stopwatch, "is_host", property(lambda self: self is not watch))
    monkeypatch.setattr(
        Stopwatch,
        "forward_s",
        lambda self, arch: timed.append((arch, len(self.images), torch.get_num_threads())) or 0.7,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert _host_forward_s(watch, 0.3) == 0.7
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert timed == [(watch.archs[0], 1, 1)]


def test_cifar_is_an_hour_and_little_data_two_minutes() -> None:
    assert effort_seconds("balanced", num_train=45_000, image_side=32) <= 3600
    assert effort_seconds("balanced", num_train=1400, image_side=8) == pytest.approx(151, rel=0.01)
    photographs = [effort_seconds("best", num_train=5000, image_side=s) for s in (224, 3000)]
    assert photographs[0] == photographs[1]  # no network sees more of them
    with pytest.raises(ConfigError, match="effort 'fast' is not one of quick, balanced, best"):
        effort_seconds("fast", num_train=1, image_side=8)


@pytest.mark.usefixtures("machine")
def test_too_little_time_is_said_with_the_time_that_would_do() -> None:
    with pytest.raises(ConfigError, match=r"a budget of 20 s leaves .* give it at least \d+ s"):
        plan(task(budget_s=20.0, num_train=1_000_000))


@pytest.mark.usefixtures("machine")
def test_an_effort_takes_as_long_as_the_machine_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "effort_seconds", lambda *_, **__: 20.0)
    planned = plan(task(budget_s=None, num_train=1_000_000))
    assert planned.budget_s > 20 and planned.config.train.epochs == pytest.approx(0.5, rel=0.05)
    estimate = planned.estimate
    total = 5 + estimate.train_s + estimate.evaluate_s + estimate.rest_s
    assert total == pytest.approx(planned.budget_s, rel=0.05)


def test_a_network_that_the_memory_does_not_hold_is_passed_over(
    machine: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = largest_macs(plan(task()))
    timed = Stopwatch.training_s
    held = expected - 1

    def training_s(watch: Stopwatch, arch: object, *, autocast: bool) -> float:
        seconds = timed(watch, arch, autocast=autocast)  # type: ignore[arg-type]
        if machine[-1] > held:
            raise torch.cuda.OutOfMemoryError("none left")
        return seconds

    monkeypatch.setattr(Stopwatch, "training_s", training_s)
    assert 0 < largest_macs(plan(task())) < expected
    held = 0
    with pytest.raises(ConfigError, match=r"memory does not hold residual .*train\.batch_size="):
        plan(task())


@pytest.mark.usefixtures("machine")
def test_a_gpu_has_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as ranks of this machine leave, however many there are on others."""
    monkeypatch.setattr(planning, "usable_cores", lambda: 12)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    gpu = torch.device("cuda")
    for found, given, expected in (
        (task(), frozenset(), 8),
        (task(world_size=4), frozenset(), 3),
        (task(world_size=64), frozenset(), 3),
        (task(), frozenset({"data.num_workers"}), 0),
    ):
        asked = dataclasses.replace(found, given=given)
        assert _with_readers(config(), asked, gpu).data.num_workers == expected
    assert _with_readers(config(), task(), CPU).data.num_workers == 0


@pytest.mark.usefixtures("machine")
def test_ranks_of_a_launcher_are_timed_with_batches_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    make = Stopwatch.of

    def of(spec: object, *, device: torch.device, batch_size: int) -> Stopwatch:
        sizes.append(batch_size)
        return make(spec, device=device, batch_size=batch_size)  # type: ignore[arg-type]

    monkeypatch.setattr(Stopwatch, "of", of)
    plan(task(world_size=4), "train.batch_size=64")
    assert set(sizes) == {64}
    sizes.clear()
    plan(task(), "train.batch_size=64")
    assert set(sizes) == {32}, "those that a run starts itself share a batch"


def test_only_a_few_networks_are_timed(machine: list[int]) -> None:
    plan(task())
    assert len(set(machine)) <= 3 * 3  # largest, smallest, middle of at most three


def test_phases_have_any_length() -> None:
    longer = delayed_plan(epochs=10, learning_rate=0.1, reference_batch=64).with_epochs([2.5, 0.2])
    assert [phase.num_epochs for phase in longer.phases] == [3, 1]
    assert [phase.num_steps(10) for phase in longer.phases] == [25, 2]
    assert longer.epochs == 4


def test_fine_tuning_has_its_share_of_the_time(machine: list[int]) -> None:
    without = plan(task()).estimate
    found = plan(task(), "search.finetune_share=0.25").estimate
    assert without.tune_s == 0 and found.tune_s == 180
    assert found.train_s == pytest.approx(without.train_s - 180, abs=2)
    for open_end in ("train.epochs=3", "grid.ship=true"):
        with pytest.raises(ConfigError, match="is a share of a time, for the winners"):
            plan(task(budget_s=None), "search.finetune_share=0.25", open_end)
