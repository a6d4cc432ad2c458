"""The engine: learns, repeats bit by bit, resumes exactly, rolls back."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from onceforall.errors import CheckpointError, Interrupted, TrainingError
from onceforall.measure.subnet import evaluate_arch
from onceforall.supernets.supernet import Supernet
from onceforall.training import engine
from onceforall.training.checkpoint import load_newest, save_checkpoint
from onceforall.training.engine import train
from onceforall.training.plan import Opened, Phase, Plan, sandwich_plan
from onceforall.training.settings import Callbacks, EpochEnd, TrainOptions
from onceforall.training.shrinking import progressive_plan
from onceforall.training.step import StepNumbers, accumulate_gradients
from tests.training.tiny import SPEC, tiny_batches, tiny_eval, tiny_net

SANDWICH = sandwich_plan(
    epochs=3, learning_rate=0.1, reference_batch=16, subnets_per_step=3, ema_decay=0.9
)
MUON = dataclasses.replace(SANDWICH, muon_factor=0.5)
PROGRESSIVE = progressive_plan(SPEC.space, epochs=6, learning_rate=0.1, reference_batch=16)


def run_straight(plan: Plan, folder: Path, **options: object) -> Supernet:
    net = tiny_net()
    train(net, plan, tiny_batches(), folder=folder, options=TrainOptions(seed=0, **options))
    return net


def run_with_stops(plan: Plan, folder: Path, stops: list[int]) -> Supernet:
    """Train, but fall dead after each of the given numbers of steps; no farewell checkpoint."""

    class DeadError(Exception):
        pass

    for stop in [*stops, None]:
        steps = 0

        def count_down(images: torch.Tensor, labels: torch.Tensor, step: int, stop=stop):
            nonlocal steps
            steps += 1
            if stop is not None and steps > stop:
                raise DeadError
            return images, labels

        net = tiny_net()
        options = TrainOptions(seed=0, checkpoint_every_steps=2)
        try:
            train(
                net,
                plan,
                tiny_batches(),
                folder=folder,
                options=options,
                callbacks=Callbacks(change_batch=count_down),
            )
        except DeadError:
            continue
    return net


def assert_same(first: Supernet, second: Supernet) -> None:
    for (name, a), (_, b) in zip(
        first.state_dict().items(), second.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


PLANS = {"sandwich": SANDWICH, "muon": MUON, "progressive": PROGRESSIVE}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_a_killed_run_ends_with_the_same_bits(plan: Plan, tmp_path: Path) -> None:
    straight = run_straight(plan, tmp_path / "a")
    rng = random.Random(7)
    stops = [rng.randrange(1, 9) for _ in range(5)]
    resumed = run_with_stops(plan, tmp_path / "b", stops)
    assert_same(straight, resumed)
    assert not torch.equal(
        straight.state_dict()["layers.0.conv.weight"],
        tiny_net().state_dict()["layers.0.conv.weight"],
    )


def test_training_learns_every_subnet(tmp_path: Path) -> None:
    plan = sandwich_plan(epochs=8, learning_rate=0.1, reference_batch=16, subnets_per_step=3)
    net = run_straight(plan, tmp_path)
    images = tiny_eval()

    def calibration(resolution: int):
        return (x for x, _ in images.batches(resolution))

    rng = random.Random(0)
    archs = [SPEC.space.smallest, SPEC.space.largest, *(SPEC.space.sample(rng) for _ in range(4))]
    for arch in archs:
        assert evaluate_arch(net, arch, calibration=calibration, images=images).top1 > 0.9


def test_a_checkpoint_of_before_muon_goes_on(tmp_path: Path) -> None:
    """It names the plan without what came later, and holds the state of one optimizer."""
    folder = tmp_path / "b"
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        train(
            tiny_net(), SANDWICH, tiny_batches(), folder=folder, options=TrainOptions(seed=0),
            callbacks=Callbacks(should_stop=lambda: next(calls) == 7),
        )  # fmt: skip
    state = torch.load(max(folder.glob("step-*.pt")), weights_only=True)
    assert "muon" not in state["plan"] and set(state["optimizer"]) == {"state", "param_groups"}
    with pytest.raises(CheckpointError, match="another plan"):
        train(tiny_net(), MUON, tiny_batches(), folder=folder, options=TrainOptions(seed=0))


@pytest.mark.parametrize("muon", [0.0, 0.5])
def test_rates_are_for_the_reference_batch(muon: float, tmp_path: Path) -> None:
    """Four times the batch: four times the rate of gradient descent, twice that of Muon."""
    plan = dataclasses.replace(SANDWICH, muon_factor=muon)
    (phase,) = plan.phases
    faster = dataclasses.replace(phase, learning_rate=4 * phase.learning_rate)
    whole = dataclasses.replace(plan, phases=(faster,), muon_factor=muon / 2)
    ends = [
        run_straight(dataclasses.replace(plan, reference_batch=4), tmp_path / "4"),
        run_straight(whole, tmp_path / "16"),
    ]
    assert_same(*ends)


def test_global_generators_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    spec_with_dropout = dataclasses.replace(SPEC, dropout=0.2)
    net = Supernet(spec_with_dropout)
    torch.set_rng_state(before[0])
    train(net, SANDWICH, tiny_batches(), folder=tmp_path, options=TrainOptions(seed=0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_a_stop_request_saves_and_the_rest_follows(tmp_path: Path) -> None:
    asked = iter([False, False, False, True])
    with pytest.raises(Interrupted, match="the same command goes on"):
        train(
            tiny_net(),
            SANDWICH,
            tiny_batches(),
            folder=tmp_path / "b",
            options=TrainOptions(seed=0),
            callbacks=Callbacks(should_stop=lambda: next(asked)),
        )
    resumed = run_straight(SANDWICH, tmp_path / "b")
    assert_same(run_straight(SANDWICH, tmp_path / "a"), resumed)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    run_with_stops(SANDWICH, tmp_path / "b", [5])
    straight = run_straight(SANDWICH, tmp_path / "a")
    folder = tmp_path / "c"
    with pytest.raises(Interrupted):
        calls = iter(range(100))
        train(
            tiny_net(),
            SANDWICH,
            tiny_batches(),
            folder=folder,
            options=TrainOptions(seed=0, checkpoint_every_steps=2),
            callbacks=Callbacks(should_stop=lambda: next(calls) >= 4),
        )
    newest = sorted(folder.glob("step-*.pt"))[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    events: list[dict[str, object]] = []
    net = tiny_net()
    train(
        net,
        SANDWICH,
        tiny_batches(),
        folder=folder,
        options=TrainOptions(seed=0),
        callbacks=Callbacks(on_event=events.append),
    )
    assert events[0]["event"] == "damaged_checkpoint"
    assert_same(straight, net)


def poison(at: set[int], seen: set[int] | None = None):
    """Return a batch change that gives infinite pixels at some calls."""
    calls = iter(range(10_000))

    def change(images: torch.Tensor, labels: torch.Tensor, step: int):
        if next(calls) in at:
            images = torch.full_like(images, float("nan"))
        return images, labels

    return change


def test_a_loss_that_is_not_a_number_rolls_back(tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    net = tiny_net()
    train(
        net,
        SANDWICH,
        tiny_batches(),
        folder=tmp_path,
        options=TrainOptions(seed=0),
        callbacks=Callbacks(on_event=events.append, change_batch=poison({8})),
    )
    (rollback,) = [event for event in events if event["event"] == "rollback"]
    assert rollback["learning_rate_factor"] == 0.5
    assert "nan" in str(rollback["reason"])
    assert all(torch.isfinite(t).all() for t in net.state_dict().values())


@pytest.mark.parametrize("at", [1, 5, 8])  # 5 is the last step of an epoch
def test_nothing_is_kept_of_a_step_that_is_taken_back(at: int, tmp_path: Path) -> None:
    """Its update is on the way when its loss is read: average, momentum and checkpoints too."""
    ends = []
    for folder in ("once", "again"):
        events: list[dict[str, object]] = []
        calls = iter(range(10_000))
        bad = {at} if folder == "once" else {at, at + 1}  # the next one fails once more

        def change(images: torch.Tensor, labels: torch.Tensor, step: int, bad=bad, calls=calls):
            return (images * float("nan") if next(calls) in bad else images), labels

        net = tiny_net()
        train(
            net,
            SANDWICH,
            tiny_batches(),
            folder=tmp_path / folder,
            options=TrainOptions(seed=0, checkpoint_every_steps=1),
            callbacks=Callbacks(on_event=events.append, change_batch=change),
        )
        rollbacks = [event for event in events if event["event"] == "rollback"]
        assert [event["step"] for event in rollbacks] == [at] * len(bad)
        assert f"step {at}: the loss is nan" in str(rollbacks[0]["reason"])
        for path in (tmp_path / folder).glob("step-*.pt"):
            state = torch.load(path, weights_only=True)
            momenta = [s["momentum_buffer"] for s in state["optimizer"]["state"].values()]
            kept = [*state["net"].values(), *state["average"].values(), *momenta]
            assert all(torch.isfinite(tensor).all() for tensor in kept)
        ends.append(net)
    assert all(torch.isfinite(t).all() for end in ends for t in end.state_dict().values())


def test_the_next_batch_is_made_while_a_step_is_under_way(tmp_path: Path, monkeypatch) -> None:
    told: list[str] = []
    data = tiny_batches()
    make, read = data.batch, StepNumbers.read

    def batch(epoch: int, step: int, *, resolution: int):
        told.append(f"batch {epoch}.{step}")
        return make(epoch, step, resolution=resolution)

    monkeypatch.setattr(data, "batch", batch)
    monkeypatch.setattr(StepNumbers, "read", lambda self: told.append("read") or read(self))
    train(tiny_net(), SANDWICH, data, folder=tmp_path, options=TrainOptions(seed=0))
    steps, epochs = 6, 3
    expected = []
    for epoch in range(epochs):
        expected.append(f"batch {epoch}.0")
        for step in range(1, steps):
            expected += [f"batch {epoch}.{step}", "read"]
        expected.append("read")  # no batch is made that no step takes
    assert told == expected


def test_a_smaller_subnet_without_a_finite_loss_rolls_back(tmp_path: Path, monkeypatch) -> None:
    events: list[dict[str, object]] = []
    calls = iter(range(10_000))

    def accumulate(*arguments: object, **votes: object) -> StepNumbers:
        numbers = accumulate_gradients(*arguments, **votes)
        if next(calls) == 8:
            numbers.means[3] = float("inf")  # after label loss, and loss and top-1 of the first
        return numbers

    monkeypatch.setattr(engine, "accumulate_gradients", accumulate)
    train(
        tiny_net(),
        SANDWICH,
        tiny_batches(),
        folder=tmp_path,
        options=TrainOptions(seed=0),
        callbacks=Callbacks(on_event=events.append),
    )
    (rollback,) = [event for event in events if event["event"] == "rollback"]
    assert "the loss is inf" in str(rollback["reason"])


LONG = sandwich_plan(epochs=40, learning_rate=0.1, reference_batch=16, subnets_per_step=2)


def test_a_collapse_is_never_kept_and_never_forgotten(tmp_path: Path) -> None:
    """From a step on labels mean nothing: each rollback goes to before it, and is seen again."""
    events: list[dict[str, object]] = []
    at = 100

    def collapse(images: torch.Tensor, labels: torch.Tensor, step: int):
        return (images * 0, (labels * 0 + step) % 3) if step >= at else (images, labels)

    with pytest.raises(TrainingError, match=r"diverged 4 times.*back at chance"):
        train(
            tiny_net(),
            LONG,
            tiny_batches(),
            folder=tmp_path,
            options=TrainOptions(seed=0),
            callbacks=Callbacks(on_event=events.append, change_batch=collapse),
        )
    rollbacks = [event for event in events if event["event"] == "rollback"]
    assert len(rollbacks) == 3
    assert all(at - 6 <= int(str(event["step"])) <= at + 6 for event in rollbacks)


TAUGHT = Plan(
    name="taught",
    phases=(
        Phase(name="alone", epochs=1, draw="largest", learning_rate=0.1),
        Phase(name="taught", epochs=1, draw="random", learning_rate=0.1, teacher="frozen"),
    ),
    reference_batch=16,
)


@pytest.mark.parametrize("plan", [SANDWICH, TAUGHT], ids=["epoch", "phase"])
def test_weights_of_no_numbers_are_not_kept(plan: Plan, tmp_path: Path) -> None:
    """An update spoils the weights after the last step of an epoch; its loss was a number."""
    events: list[dict[str, object]] = []
    net = tiny_net()
    calls = iter(range(10_000))

    def spoil(images: torch.Tensor, labels: torch.Tensor, step: int):
        if next(calls) == 5:
            weight = next(net.parameters())
            handle = weight.register_hook(lambda grad: grad * float("nan"))
            handles.append(handle)
        elif handles:
            handles.pop().remove()
        return images, labels

    handles: list[torch.utils.hooks.RemovableHandle] = []
    train(
        net,
        plan,
        tiny_batches(),
        folder=tmp_path,
        options=TrainOptions(seed=0),
        callbacks=Callbacks(on_event=events.append, change_batch=spoil),
    )
    (rollback,) = [event for event in events if event["event"] == "rollback"]
    assert rollback["step"] == 0 and "nan" in str(rollback["reason"])
    assert all(torch.isfinite(t).all() for t in net.state_dict().values())


def test_weights_of_no_numbers_do_not_end_training(tmp_path: Path) -> None:
    net = tiny_net()
    weight = next(net.parameters())
    last = 3 * 6 - 1  # of SANDWICH; and of every try after a rollback to the epoch before

    def spoil(images: torch.Tensor, labels: torch.Tensor, step: int):
        if step == last:
            handles.append(weight.register_hook(lambda grad: grad * float("nan")))
        elif handles:
            handles.pop().remove()
        return images, labels

    handles: list[torch.utils.hooks.RemovableHandle] = []
    with pytest.raises(TrainingError, match=r"diverged 4 times .*weights are nan"):
        train(
            net,
            SANDWICH,
            tiny_batches(),
            folder=tmp_path,
            options=TrainOptions(seed=0),
            callbacks=Callbacks(change_batch=spoil),
        )


def test_a_rollback_over_the_end_of_a_phase_freezes_the_teacher_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the weights at the end of the first phase were in doubt, and training diverges then."""
    doubts = iter([True])
    real = engine.save_if_sound
    monkeypatch.setattr(
        engine, "save_if_sound", lambda run: False if next(doubts, False) else real(run)
    )
    ends: list[dict[str, torch.Tensor]] = []
    net = tiny_net()

    def after_epoch(end: EpochEnd) -> dict[str, object]:
        ends.append({name: value.clone() for name, value in end.net.state_dict().items()})
        return {}

    train(
        net,
        TAUGHT,
        tiny_batches(),
        folder=tmp_path,
        options=TrainOptions(seed=0),
        callbacks=Callbacks(after_epoch=after_epoch, change_batch=poison({8})),
    )
    assert len(ends) == 3  # the first phase again, at half the rate, and the second
    loaded = load_newest(tmp_path, device=torch.device("cpu"), on_damaged=lambda path: None)
    assert loaded is not None
    teacher = loaded.state["teacher"]
    assert all(torch.equal(teacher[name], value) for name, value in ends[1].items())
    assert not all(torch.equal(teacher[name], value) for name, value in ends[0].items())


def test_a_rollback_leaves_two_checkpoints(tmp_path: Path) -> None:
    for step, value in ((1, 0.0), (2, 1.0), (3, 2.0), (2, 3.0)):
        save_checkpoint(tmp_path, {"value": value}, step=step)
    steps = sorted(path.name.split(".")[0] for path in tmp_path.glob("step-*.pt"))
    assert steps == ["step-00000002"]  # 1 had gone when 3 came
    save_checkpoint(tmp_path, {"value": 4.0}, step=4)
    save_checkpoint(tmp_path, {"value": 5.0}, step=4)
    steps = sorted(path.name.split(".")[0] for path in tmp_path.glob("step-*.pt"))
    assert steps == ["step-00000002", "step-00000004"]
    found = load_newest(tmp_path, device="cpu", on_damaged=lambda path: None)
    assert found is not None and found.state["value"] == 5.0


def test_short_epochs_tell_their_steps_too(tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    plan = dataclasses.replace(LONG, phases=(dataclasses.replace(LONG.phases[0], epochs=8),))
    train(
        tiny_net(),
        plan,
        tiny_batches(batch_size=96),  # an epoch is one step
        folder=tmp_path,
        options=TrainOptions(seed=0, log_every_s=1e-3),
        callbacks=Callbacks(on_event=events.append),
    )
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert len(steps) >= 4


def test_training_that_keeps_diverging_gives_up(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"diverged 4 times.*lower the learning rate"):
        train(
            tiny_net(),
            SANDWICH,
            tiny_batches(),
            folder=tmp_path,
            options=TrainOptions(seed=0),
            callbacks=Callbacks(change_batch=poison(set(range(10_000)))),
        )


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    run_straight(SANDWICH, tmp_path)
    with pytest.raises(CheckpointError, match="another plan"):
        run_straight(PROGRESSIVE, tmp_path)


def test_progressive_shrinking_opens_one_axis_after_another() -> None:
    names = [phase.name for phase in PROGRESSIVE.phases]
    assert names == ["full", "kernel_size 2", "depth 2", "expand_ratio 2", "width_mult 2"]
    sizes = [phase.opened.restrict(SPEC.space).size for phase in PROGRESSIVE.phases]
    assert sizes == sorted(sizes)
    assert sizes[0] == len(SPEC.resolutions)
    assert sizes[-1] == SPEC.space.size


def test_a_full_disk_keeps_the_last_good_state(tmp_path: Path, monkeypatch) -> None:
    from onceforall.training import checkpoint

    written = 0
    write = checkpoint.write_bytes

    def fill_up(path: Path, data: bytes) -> None:
        nonlocal written
        written += 1
        if written > 3:
            raise OSError(28, "No space left on device", str(path))
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_bytes", fill_up)
        with pytest.raises(OSError, match="No space left"):
            run_straight(SANDWICH, tmp_path / "b", checkpoint_every_steps=2)
    resumed = run_straight(SANDWICH, tmp_path / "b")
    assert_same(run_straight(SANDWICH, tmp_path / "a"), resumed)


@pytest.mark.parametrize(("count", "parts"), [(16, 2), (10, 4)])
def test_micro_batches_average_to_the_whole_batch(count: int, parts: int) -> None:
    """Without batch norm's coupling (eval statistics) the parts equal one whole batch.

    Ten images in four parts are 3, 3, 3 and 1.
    """
    from onceforall.training.ranks import Ranks
    from onceforall.training.step import StepContext, accumulate_gradients

    plan = Plan(
        name="one",
        phases=(Phase(name="p", epochs=1, learning_rate=0.1, opened=Opened(depth=1)),),
        reference_batch=16,
    )
    context = StepContext(plan=plan, phase=plan.phases[0], ranks=Ranks())
    images = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(count) % 3
    arch = SPEC.space.restrict(resolution=(8,)).largest
    gradients = []
    results = []
    for split in (1, parts):
        net = tiny_net().double().eval()
        batches = list(zip(images.chunk(split), labels.chunk(split), strict=True))
        results.append(accumulate_gradients(net, batches, [arch], context).read())
        gradients.append([p.grad for p in net.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert results[0].losses == pytest.approx(results[1].losses, rel=1e-9)
    assert results[0].top1 == pytest.approx(results[1].top1, rel=1e-9)
