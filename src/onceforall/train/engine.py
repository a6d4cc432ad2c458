"""The training engine: runs a plan, resumes exactly, and rolls back when training diverges."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from onceforall.errors import CheckpointError, ConfigError, Interrupted, TrainingError
from onceforall.supernets.supernet import Supernet
from onceforall.train.attentive import choose_attentively
from onceforall.train.checkpoint import State, load_newest, save_checkpoint
from onceforall.train.optimizer import (
    make_optimizer,
    parameters_copy,
    set_learning_rate,
    update_average,
)
from onceforall.train.pace import EpochSums, Timer
from onceforall.train.plan import Phase, Plan
from onceforall.train.ranks import Ranks, agree, wait_for_all
from onceforall.train.sampling import Moment, draw_archs, draw_resolution
from onceforall.train.schedules import CosineSchedule
from onceforall.train.step import StepContext, StepResult, Trainable, accumulate_gradients
from onceforall.train.watch import LossWatch

Event = dict[str, Any]


class TrainData(Protocol):
    """What the engine asks of training data; ``data/protocols.py`` says the rest."""

    @property
    def batch_size(self) -> int:
        """Images per batch and rank."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        ...

    def iterate(
        self, epoch: int, *, start_step: int = 0, resolution_of: Callable[[int], int]
    ) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """Yield ``(step, (images, labels))`` from ``start_step``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How a plan is run; none of it changes what is computed, but for ``micro_batches``.

    Attributes:
        seed: Seed of subnets, resolutions and dropout.
        checkpoint_every_s: Seconds between checkpoints.
        checkpoint_every_steps: Steps between checkpoints, instead of seconds; 0 for seconds.
        log_every_s: Seconds between progress events.
        autocast: Forward passes in bfloat16.
        micro_batches: Each batch is split into this many parts whose gradients are averaged.
        max_rollbacks: Divergences that are answered by a lower learning rate.
    """

    seed: int
    checkpoint_every_s: float = 60.0
    checkpoint_every_steps: int = 0
    log_every_s: float = 1.0
    autocast: bool = False
    micro_batches: int = 1
    max_rollbacks: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """What the engine tells and asks its caller.

    Attributes:
        on_event: Takes every event, on rank 0 only; the caller writes and shows them.
        should_stop: Asked every step; True ends training with a checkpoint.
        after_epoch: Called with the supernet in its current state (never changed by it) and the
            epochs done; returns facts for the epoch's event, e.g. probed accuracies.
        change_batch: Turns images and labels into what is trained on (mixup and the like); takes
            the global step.
    """

    on_event: Callable[[Event], None] = lambda event: None
    should_stop: Callable[[], bool] = lambda: False
    after_epoch: Callable[[Trainable, int], Event] = lambda net, epoch: {}
    change_batch: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] = (
        lambda images, labels, step: (images, labels)
    )


@dataclass(slots=True)
class _Position:
    """Where training stands; all that a checkpoint holds besides tensors."""

    phase: int = 0
    epoch: int = 0  # within the phase
    step: int = 0  # within the epoch
    rollbacks: int = 0
    learning_rate_factor: float = 1.0
    seconds: float = 0.0


@dataclass(slots=True)
class _Run:
    """One call of :func:`train`."""

    net: Trainable
    plan: Plan
    data: TrainData
    folder: Path
    options: TrainOptions
    callbacks: Callbacks
    ranks: Ranks
    position: _Position
    watch: LossWatch
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]
    teacher: Trainable | None = None
    has_own_teacher: bool = False

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def global_epoch(self) -> int:
        before = sum(phase.epochs for phase in self.plan.phases[: self.position.phase])
        return before + self.position.epoch

    @property
    def global_step(self) -> int:
        return self.global_epoch * self.data.steps_per_epoch + self.position.step


def train(
    net: Trainable,
    plan: Plan,
    data: TrainData,
    *,
    folder: Path,
    options: TrainOptions,
    callbacks: Callbacks | None = None,
    ranks: Ranks | None = None,
    teacher: Trainable | None = None,
) -> None:
    """Run ``plan`` on ``net`` to its end, from the newest checkpoint in ``folder`` if there is one.

    The result is bitwise the same whether training ran straight or was killed and started again
    any number of times (same machine, same number of threads and ranks).

    Args:
        net: Trainable on its device; left in training mode, with the averaged weights if the plan
            averages.
        plan: What to train.
        data: Training batches of this rank.
        folder: Folder of checkpoints, written by rank 0.
        options: How to run.
        callbacks: Whom to tell and ask.
        ranks: This process among all.
        teacher: Network that phases with a frozen teacher learn from, instead of the network as
            it was after the first phase. It is not kept in checkpoints.

    Raises:
        Interrupted: If ``should_stop`` said so; a checkpoint is there.
        TrainingError: If training diverged more than ``options.max_rollbacks`` times.
        CheckpointError: If the checkpoint belongs to another plan or network.
    """
    run = _Run(
        net=net,
        plan=plan,
        data=data,
        folder=folder,
        options=options,
        callbacks=callbacks or Callbacks(),
        ranks=ranks or Ranks(),
        position=_Position(),
        watch=LossWatch(num_classes=net.spec.num_classes),
        optimizer=_new_optimizer(net, plan),
        average=parameters_copy(net) if plan.ema_decay else {},
        teacher=teacher,
        has_own_teacher=teacher is not None,
    )
    restored = _restore(run)
    wait_for_all(run.ranks)  # nobody writes while another still looks for a checkpoint
    if not restored:
        _start_phase(run)
        _save(run)  # a rollback in the first minute needs somewhere to go
    while run.position.phase < len(plan.phases):
        try:
            _run_epoch(run)
        except _DivergedError as error:
            _roll_back(run, str(error))
    if plan.ema_decay:
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.copy_(run.average[name])


class _DivergedError(Exception):
    """The loss watch raised an alarm."""


def _run_epoch(run: _Run) -> None:
    """Train the rest of the current epoch and move on to the next epoch or phase."""
    phase = run.plan.phases[run.position.phase]
    space = phase.opened.restrict(run.net.space)
    epoch = run.global_epoch
    options = run.options
    timer = Timer(
        log_every_s=options.log_every_s,
        checkpoint_every_s=options.checkpoint_every_s,
        checkpoint_every_steps=options.checkpoint_every_steps,
    )
    run.net.train()
    batches = run.data.iterate(
        epoch,
        start_step=run.position.step,
        resolution_of=lambda step: draw_resolution(space, _moment(run, step)),
    )
    sums = EpochSums()
    for step, (images, labels) in batches:
        run.position.step = step
        archs = draw_archs(phase, space, _moment(run, step), resolution=images.shape[-1])
        result = _train_step(run, phase, images, labels, archs)
        run.position.step += 1
        # The leading subnet tells whether training collapses; a loss that is no number counts in
        # any of them, because the step was not taken.
        broken = [loss for loss in result.losses if not math.isfinite(loss)]
        problem = run.watch.verdict(broken[0] if broken else result.losses[0])
        if problem is not None:
            raise _DivergedError(f"phase {phase.name}, step {run.global_step - 1}: {problem}")
        sums.add(result, len(images) * run.ranks.world_size)
        if timer.is_log_time():
            run.position.seconds += timer.lap()
            _tell(run, _step_event(run, phase, result, sums))
        is_last = run.position.step >= run.data.steps_per_epoch
        stop = agree(run.callbacks.should_stop(), run.ranks, run.device)
        if not is_last and (stop or timer.is_checkpoint_time(run.global_step)):
            _save(run)
        if stop:
            if is_last:
                _end_epoch(run, phase, sums, timer)
            raise Interrupted(f"stopped at step {run.global_step}; the same command goes on")
    _end_epoch(run, phase, sums, timer)


def _end_epoch(run: _Run, phase: Phase, sums: EpochSums, timer: Timer) -> None:
    run.position.seconds += timer.lap()
    run.position.step = 0
    run.position.epoch += 1
    if run.position.epoch >= phase.epochs:
        run.position.epoch = 0
        run.position.phase += 1
        if run.position.phase < len(run.plan.phases):
            _start_phase(run)
    facts = run.callbacks.after_epoch(run.net, run.global_epoch)
    event = {
        "event": "epoch",
        "phase": phase.name,
        "epochs_done": run.global_epoch,
        "epochs": run.plan.epochs,
        "seconds": round(run.position.seconds, 3),
        **sums.means(),
        **facts,
    }
    _tell(run, event)
    _save(run)


def _train_step(
    run: _Run, phase: Phase, images: Tensor, labels: Tensor, archs: list[Any]
) -> StepResult:
    learning_rate = _schedule(run, phase)(_phase_step(run)) * run.position.learning_rate_factor
    set_learning_rate(run.optimizer, learning_rate)
    images, labels = run.callbacks.change_batch(images, labels, run.global_step)
    parts = run.options.micro_batches
    micro_batches = list(zip(images.chunk(parts), labels.chunk(parts), strict=True))
    context = StepContext(
        plan=run.plan,
        phase=phase,
        ranks=run.ranks,
        teacher=run.teacher,
        autocast=run.options.autocast,
    )
    with _private_dropout(run):
        archs = choose_attentively(
            run.net,
            micro_batches[0],
            archs,
            context,
            space=phase.opened.restrict(run.net.space),
            seed=f"{run.options.seed}/{run.global_step}",
        )
        result = accumulate_gradients(run.net, micro_batches, archs, context)
    if all(math.isfinite(loss) for loss in result.losses):
        if run.plan.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(run.net.parameters(), run.plan.max_grad_norm)
        run.optimizer.step()
        if run.average:
            update_average(run.average, run.net, run.plan.ema_decay)
    return result


@contextlib.contextmanager
def _private_dropout(run: _Run) -> Iterator[None]:
    """Seed dropout from (seed, step, rank) inside a fork of the generators; restored on exit."""
    key = f"{run.options.seed}/dropout/{run.global_step}/{run.ranks.rank}"
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))
        yield


def _schedule(run: _Run, phase: Phase) -> CosineSchedule:
    """Return the phase's schedule; its peak grows with the global batch."""
    global_batch = run.data.batch_size * run.ranks.world_size
    peak = phase.learning_rate * global_batch / run.plan.reference_batch
    return CosineSchedule(
        peak=peak,
        steps=phase.epochs * run.data.steps_per_epoch,
        warmup_steps=round(phase.warmup_epochs * run.data.steps_per_epoch),
        start=min(phase.warmup_start, peak),
    )


def _phase_step(run: _Run) -> int:
    return run.position.epoch * run.data.steps_per_epoch + run.position.step


def _moment(run: _Run, batch: int) -> Moment:
    """Return the moment of a batch of the current epoch; batches are prepared ahead."""
    phase = run.plan.phases[run.position.phase]
    batches = run.data.steps_per_epoch
    return Moment(
        seed=run.options.seed,
        epoch=run.position.epoch,
        batch=batch,
        batches=batches,
        step=run.global_epoch * batches + batch,
        progress=(run.position.epoch * batches + batch) / (phase.epochs * batches),
        published=run.plan.published_draws,
    )


# -- phases, checkpoints, rollbacks ---------------------------------------------------------------


def _new_optimizer(net: Trainable, plan: Plan) -> torch.optim.Optimizer:
    return make_optimizer(
        net,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        decay_transforms=plan.decay_transforms,
        head=net.layers[-1] if isinstance(net, Supernet) else net.plain.head[-1],
        head_factor=plan.head_factor,
    )


def _start_phase(run: _Run) -> None:
    """Sort channels if the phase says so, freeze a teacher, start with a fresh optimizer."""
    phase = run.plan.phases[run.position.phase]
    if phase.teacher == "frozen" and run.teacher is None:
        if run.position.phase == 0:
            raise ConfigError(f"phase {phase.name} learns from a teacher, but there is none")
        run.teacher = copy.deepcopy(run.net).requires_grad_(False)
        run.teacher.zero_grad(set_to_none=True)
    if phase.sort_channels is not None:
        run.net.sort_channels(num_opened=phase.sort_channels)
        if run.average:
            run.average = parameters_copy(run.net)
    run.optimizer = _new_optimizer(run.net, run.plan)
    run.watch = LossWatch(num_classes=run.net.spec.num_classes)


def _save(run: _Run) -> None:
    if run.ranks.is_main:
        position = run.position
        state: State = {
            "plan": repr(run.plan),
            "spec": repr(run.net.spec),
            "net": run.net.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "average": run.average,
            "teacher": _kept_teacher(run),
            "watch": [run.watch.smoothed, run.watch.best],
            "position": [getattr(position, name) for name in _Position.__slots__],
        }
        path = save_checkpoint(run.folder, state, step=run.global_step)
        _tell(run, {"event": "checkpoint", "step": run.global_step, "file": path.name})
    wait_for_all(run.ranks)


def _kept_teacher(run: _Run) -> dict[str, Tensor]:
    if run.teacher is None or run.has_own_teacher:
        return {}
    return run.teacher.state_dict()


def _restore(run: _Run) -> bool:
    """Load the newest good checkpoint; return whether there was one."""
    state = load_newest(
        run.folder,
        device=run.device,
        on_damaged=lambda path: _tell(run, {"event": "damaged_checkpoint", "file": path.name}),
    )
    if state is None:
        return False
    for name, value in (("plan", repr(run.plan)), ("network", repr(run.net.spec))):
        if state["spec" if name == "network" else name] != value:
            raise CheckpointError(
                f"the checkpoint in {run.folder} is of another {name}; "
                "use another output folder or the settings it was started with"
            )
    run.position = _Position(**dict(zip(_Position.__slots__, state["position"], strict=True)))
    run.net.load_state_dict(state["net"])
    run.average = dict(state["average"])
    if state["teacher"]:
        run.teacher = copy.deepcopy(run.net).requires_grad_(False)
        run.teacher.load_state_dict(state["teacher"])
    run.optimizer = _new_optimizer(run.net, run.plan)
    run.optimizer.load_state_dict(state["optimizer"])
    run.watch.smoothed, run.watch.best = state["watch"]
    return True


def _roll_back(run: _Run, problem: str) -> None:
    """Return to the newest good checkpoint with half the learning rate."""
    rollbacks = run.position.rollbacks + 1
    factor = run.position.learning_rate_factor * 0.5
    if rollbacks > run.options.max_rollbacks or not _restore(run):
        raise TrainingError(
            f"training diverged {rollbacks} times ({problem}); "
            "lower the learning rate (--set train.learning_rate=...) and start again"
        )
    wait_for_all(run.ranks)
    run.position.rollbacks, run.position.learning_rate_factor = rollbacks, factor
    run.watch = LossWatch(num_classes=run.net.spec.num_classes)
    _tell(
        run,
        {
            "event": "rollback",
            "reason": problem,
            "step": run.global_step,
            "learning_rate_factor": factor,
        },
    )
    _save(run)


# -- events ----------------------------------------------------------------------------------------


def _step_event(run: _Run, phase: Phase, result: StepResult, sums: EpochSums) -> Event:
    return {
        "event": "step",
        "phase": phase.name,
        "epoch": run.global_epoch + 1,
        "epochs": run.plan.epochs,
        "step": run.global_step,
        "steps": run.plan.epochs * run.data.steps_per_epoch,
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "subnet_losses": [round(loss, 4) for loss in result.losses],
        "subnet_top1": [round(top1, 4) for top1 in result.top1],
        "seconds_left": round(_seconds_left(run, phase, sums), 1),
        **sums.means(),
    }


def _seconds_left(run: _Run, phase: Phase, sums: EpochSums) -> float:
    """Return the seconds that the plan still takes, if a subnet's pass takes as long as now."""
    per_pass = sums.seconds / (sums.steps * phase.subnets_per_step)
    batches = run.data.steps_per_epoch
    later = run.plan.phases[run.position.phase + 1 :]
    steps = (phase.epochs - run.position.epoch) * batches - run.position.step
    passes = steps * phase.subnets_per_step
    return per_pass * (passes + sum(p.epochs * batches * p.subnets_per_step for p in later))


def _tell(run: _Run, event: Event) -> None:
    if run.ranks.is_main:
        run.callbacks.on_event(event)
