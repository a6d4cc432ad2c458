"""The training engine: runs a plan, resumes exactly, and rolls back when training diverges."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from onceforall.arch import Arch
from onceforall.data.batches.protocols import TrainBatches
from onceforall.errors import Interrupted
from onceforall.training.attentive_sampling import choose_attentively
from onceforall.training.budget import Pacer
from onceforall.training.freezing import kept_statistics, learn_only
from onceforall.training.optimizer import (
    average_decay,
    parameters_copy,
    set_learning_rate,
    update_average,
)
from onceforall.training.plan import Phase, Plan
from onceforall.training.ranks import Ranks, share_from_main, wait_for_all
from onceforall.training.sampling import Moment, draw_archs, draw_resolution
from onceforall.training.schedules import CosineSchedule
from onceforall.training.settings import Callbacks, EpochEnd, Event, TrainOptions
from onceforall.training.standing import (
    Position,
    Standing,
    is_finite,
    new_optimizer,
    restore,
    roll_back,
    save,
    save_if_sound,
    start_phase,
    tell,
)
from onceforall.training.step import (
    StepContext,
    StepNumbers,
    StepResult,
    Trainable,
    accumulate_gradients,
)
from onceforall.training.timer import EpochSums, Timer
from onceforall.training.watch import LossWatch


def train(
    net: Trainable,
    plan: Plan,
    data: TrainBatches,
    *,
    folder: Path,
    options: TrainOptions,
    callbacks: Callbacks | None = None,
    ranks: Ranks | None = None,
    teacher: Trainable | None = None,
    start_at: str = "",
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Run ``plan`` on ``net`` to its end, from the newest checkpoint in ``folder`` if there is one.

    The result is the same whether training ran straight or was killed and started again any number
    of times, with the same number of ranks: bitwise on processors, with the same number of threads.
    A restart on a GPU repeats every draw and batch, but its kernels add in an order that changes
    from call to call, so weights agree to rounding only, as those of any two runs there.

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
        start_at: Phase to begin with, as if the ones before it had led to the weights of ``net``;
            the first one by default.
        average: Averaged weights to begin with, by name; by default those of ``net``.

    Raises:
        ConfigError: If there is no such phase, or nothing in it can learn.
        Interrupted: If ``should_stop`` said so; a checkpoint is there, of this step or, where the
            latest losses are those of a collapse, of an earlier one.
        TrainingError: If training diverged more than ``options.max_rollbacks`` times; the weights
            are then of no use.
        CheckpointError: If the checkpoint belongs to another plan or network.
    """
    # Copies: training changes them in place.
    first = parameters_copy(net) | {name: value.clone() for name, value in (average or {}).items()}
    run = Standing(
        net=net,
        plan=plan,
        data=data,
        folder=folder,
        options=options,
        callbacks=callbacks or Callbacks(),
        ranks=ranks or Ranks(),
        position=Position(phase=plan.index(start_at)),
        watch=LossWatch(num_classes=net.spec.num_classes),
        timer=Timer(
            log_every_s=options.log_every_s,
            checkpoint_every_s=options.checkpoint_every_s,
            checkpoint_every_steps=options.checkpoint_every_steps,
        ),
        optimizer=new_optimizer(net, plan),
        average=first if plan.ema_decay else {},
        teacher=teacher,
        has_own_teacher=teacher is not None,
        asked=plan,
        learning=[parameter for parameter in net.parameters() if parameter.requires_grad],
    )
    try:
        _run(run)
    finally:
        learn_only(net.parameters(), run.learning)
    if plan.ema_decay:
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.copy_(run.average[name])


def _run(run: Standing) -> None:
    """Train from the newest checkpoint, or from the start, to the end."""
    restored = restore(run)
    wait_for_all(run.ranks)  # nobody writes while another still looks for a checkpoint
    if not restored:
        start_phase(run)
        save(run)  # a rollback in the first minute needs somewhere to go
    while run.position.phase < len(run.plan.phases):
        try:
            _run_epoch(run)
        except _DivergedError as error:
            roll_back(run, str(error))


class _DivergedError(Exception):
    """The loss watch raised an alarm."""


def _run_epoch(run: Standing) -> None:
    """Train the rest of the current epoch and move on to the next epoch or phase."""
    phase = run.plan.phases[run.position.phase]
    space = phase.opened.restrict(run.net.space)
    epoch = run.global_epoch
    timer = run.timer
    timer.start_epoch()
    pacer = _pacer(run)
    run.net.train()
    batches = run.data.iterate(
        epoch,
        start_step=run.position.step,
        resolution_of=lambda step: _train_side(run, draw_resolution(space, _moment(run, step))),
    )
    sums = EpochSums()
    upcoming = next(batches, None)
    while upcoming is not None:
        step, (images, labels) = upcoming
        run.position.step = step
        moment = _moment(run, step)
        archs = draw_archs(phase, space, moment, resolution=draw_resolution(space, moment))
        votes = (
            run.callbacks.should_stop(),
            # Clocks differ: the first rank's says when a checkpoint is due.
            run.ranks.is_main and timer.is_checkpoint_time(run.global_step + 1),
            pacer is not None and pacer.is_due(run.global_step + 1, run.position.phase),
        )
        numbers = _queue_step(run, images, labels, archs, votes)
        run.position.step += 1
        # A GPU is busy with the step, and the host makes the next batch before it waits.
        is_over = votes[0] or _is_last_of_epoch(run)
        upcoming = None if is_over else next(batches, None)
        result = numbers.read()
        # The leading subnet's label loss tells whether training collapses; a loss that is no
        # number counts in any of them. The step that it spoilt is taken back by the rollback:
        # nothing was kept of it.
        broken = [loss for loss in result.losses if not math.isfinite(loss)]
        problem = run.watch.verdict(broken[0] if broken else result.label_loss)
        if problem is not None:
            raise _DivergedError(f"phase {phase.name}, step {run.global_step - 1}: {problem}")
        sums.add(result, len(images) * run.ranks.world_size)
        if timer.is_log_time():
            run.position.seconds += timer.lap()
            tell(run, _step_event(run, phase, result, sums))
        stop, is_due, is_pace_due = result.votes
        if is_pace_due:
            _keep_pace(run, pacer)
        is_last = _is_last_of_epoch(run)
        if stop:
            is_saved = _end_epoch(run, phase, sums) if is_last else save_if_sound(run)
            where = "" if is_saved else " from the last sound checkpoint"
            raise Interrupted(f"stopped at step {run.global_step}; the same command goes on{where}")
        if is_last:
            break
        if is_due:
            with _aside(run):
                save_if_sound(run)
        if upcoming is None:  # this was to be the last step, but there is more time than thought
            upcoming = next(batches, None)
    with _aside(run):
        _end_epoch(run, phase, sums)


def _aside(run: Standing) -> contextlib.AbstractContextManager[None]:
    """Keep the time of what is no step out of what steps are thought to take."""
    return contextlib.nullcontext() if run.pacer is None else run.pacer.aside()


def _is_last_of_epoch(run: Standing) -> bool:
    steps = run.plan.phases[run.position.phase].num_steps(run.data.steps_per_epoch)
    return run.position.step >= run.data.steps_per_epoch or run.phase_step >= steps


def _pacer(run: Standing) -> Pacer | None:
    """Return who looks at the clock: on rank 0, if there is a time to keep."""
    if run.options.pace is None or not run.ranks.is_main:
        return None
    if run.pacer is None:
        run.pacer = Pacer(pace=run.options.pace, journal=run.folder / "pace.jsonl")
    return run.pacer


def _keep_pace(run: Standing, pacer: Pacer | None) -> None:
    """Let rank 0 decide how long the phases last from here; all ranks do as it says."""
    per_epoch, current = run.data.steps_per_epoch, run.position.phase
    left = [phase.num_steps(per_epoch) for phase in run.plan.phases[current:]]
    left[0] -= run.phase_step
    decided: list[float] | None = None
    if pacer is not None and left[0] > 0:
        decided = pacer.decide(
            run.global_step,
            current,
            left,
            lambda phase, n: (n + run.phase_step * (phase == current)) / per_epoch,
        )
    epochs = share_from_main(decided, len(left), run.ranks, run.device)
    if epochs is not None:
        run.change_lengths(epochs)
        tell(run, {"event": "pace", "step": run.global_step, "epochs": run.plan.epochs})


def _end_epoch(run: Standing, phase: Phase, sums: EpochSums) -> bool:
    """Move on to the next epoch or phase; return whether a checkpoint was written."""
    if not is_finite(run.net):  # the last step's doing: no loss has seen it
        raise _DivergedError(
            f"phase {phase.name}, step {run.global_step - 1}: weights are nan or infinite"
        )
    run.position.seconds += run.timer.lap()
    means = sums.means()  # of the epoch, without the time of what follows
    run.position.step = 0
    run.position.epoch += 1
    phase = run.plan.phases[run.position.phase]
    per_epoch = run.data.steps_per_epoch
    ends_phase = run.position.epoch * per_epoch >= phase.num_steps(per_epoch)
    facts = run.callbacks.after_epoch(
        EpochEnd(
            net=run.net,
            phase=phase,
            epochs_done=run.global_epoch,
            epochs=sum(each.epochs for each in run.plan.phases),
            ends_phase=ends_phase,
            is_last=ends_phase and run.position.phase + 1 == len(run.plan.phases),
            average=run.average,
        )
    )
    if ends_phase:
        run.position.epoch = run.position.anchor_step = 0
        run.position.anchor_share = 0.0
        run.position.phase += 1
        if run.position.phase < len(run.plan.phases):
            start_phase(run)
    event = {
        "event": "epoch",
        "phase": phase.name,
        "epochs_done": run.global_epoch,
        "epochs": run.plan.epochs,
        "seconds": round(run.position.seconds, 3),
        **means,
        **facts,
    }
    tell(run, event)
    return save_if_sound(run)


def _queue_step(
    run: Standing, images: Tensor, labels: Tensor, archs: list[Arch], votes: tuple[bool, ...]
) -> StepNumbers:
    """Let the device do one step, whatever comes of it; what it measured can be waited for."""
    phase = run.plan.phases[run.position.phase]
    schedule = _schedule(run, phase)
    learning_rate = schedule(run.share(run.phase_step) * schedule.steps)
    learning_rate *= run.position.learning_rate_factor
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
    is_still = phase.trainable == "transforms"
    still = kept_statistics(run.net) if is_still else contextlib.nullcontext()
    with _private_dropout(run), still:
        if phase.attentive != "none":
            archs = choose_attentively(
                run.net,
                micro_batches[0],
                archs,
                context,
                space=phase.opened.restrict(run.net.space),
                seed=f"{run.options.seed}/{run.global_step}",
            )
        numbers = accumulate_gradients(run.net, micro_batches, archs, context, votes=votes)
    if run.plan.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(run.net.parameters(), run.plan.max_grad_norm)
    run.optimizer.step()
    if run.average:
        decay = average_decay(run.plan.ema_decay, run.global_step)
        update_average(run.average, run.net, decay)
    return numbers


@contextlib.contextmanager
def _private_dropout(run: Standing) -> Iterator[None]:
    """Seed dropout from (seed, step, rank) inside a fork of the generators; restored on exit."""
    key = f"{run.options.seed}/dropout/{run.global_step}/{run.ranks.rank}"
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))
        yield


def _schedule(run: Standing, phase: Phase) -> CosineSchedule:
    """Return the phase's schedule; its peak grows with the global batch."""
    global_batch = run.data.batch_size * run.ranks.world_size
    peak = phase.learning_rate * global_batch / run.plan.reference_batch
    return CosineSchedule(
        peak=peak,
        steps=phase.num_steps(run.data.steps_per_epoch),
        warmup_steps=round(phase.warmup_epochs * run.data.steps_per_epoch),
        start=min(phase.warmup_start, peak),
        part=phase.cosine_part,
    )


def _train_side(run: Standing, resolution: int) -> int:
    """Return the side of the images that subnets of a resolution are trained on, in pixels."""
    return max(1, round(run.plan.train_side * resolution))


def _moment(run: Standing, batch: int) -> Moment:
    """Return the moment of a batch of the current epoch; batches are prepared ahead."""
    batches = run.data.steps_per_epoch
    return Moment(
        seed=run.options.seed,
        epoch=run.position.epoch,
        batch=batch,
        batches=batches,
        step=run.global_epoch * batches + batch,
        progress=run.share(run.position.epoch * batches + batch),
        published=run.plan.published_draws,
    )


def _step_event(run: Standing, phase: Phase, result: StepResult, sums: EpochSums) -> Event:
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


def _seconds_left(run: Standing, phase: Phase, sums: EpochSums) -> float:
    """Return the seconds that the plan still takes, if a subnet's pass takes as long as now."""
    per_pass = sums.seconds / (sums.steps * phase.subnets_per_step)
    batches = run.data.steps_per_epoch
    later = run.plan.phases[run.position.phase + 1 :]
    passes = (phase.num_steps(batches) - run.phase_step) * phase.subnets_per_step
    return per_pass * (passes + sum(p.num_steps(batches) * p.subnets_per_step for p in later))
