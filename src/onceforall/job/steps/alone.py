"""One plain network trained alone, by all processes of a run, for a time."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from onceforall.job.context import Event, Run
from onceforall.supernets.nets import PlainNet
from onceforall.supernets.single import SingleArchNet
from onceforall.training.budget import Pace
from onceforall.training.engine import train
from onceforall.training.plan import Plan
from onceforall.training.settings import Callbacks, TrainOptions

# Epochs that a training is planned with before its first look at the clock: more than it will get,
# so that the learning rate has not gone far by then.
_PLANNED_EPOCHS = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """A training of one network.

    Attributes:
        kind: What its events are called: ``baseline``, ``winner``.
        name: Of the network, in these events.
        folder: Of its checkpoints.
        resolution: Input side in pixels.
        budget_s: Seconds that it may take, over all processes that worked on it.
    """

    kind: str
    name: str
    folder: Path
    resolution: int
    budget_s: float


def train_alone_for(
    run: Run, model: PlainNet, plan: Plan, what: Alone, *, warmup_share: float
) -> None:
    """Train ``model`` in place until the time is over; the same call goes on when interrupted.

    Args:
        run: The run, as one of its ranks.
        model: Plain network on the run's device, the same on every rank.
        plan: One phase; its length is what the time allows.
        what: The training.
        warmup_share: Share of it in which the learning rate rises.

    Raises:
        Interrupted: If it was asked to stop.
        TrainingError: If training diverged too often.
    """
    (phase,) = plan.phases
    warmup = warmup_share * _PLANNED_EPOCHS
    phase = replace(phase, epochs=_PLANNED_EPOCHS, warmup_epochs=warmup)
    session, end = run.session(), time.monotonic() + what.budget_s - seconds_of(run, what)
    train(
        SingleArchNet(
            model,
            resolutions=(what.resolution,),
            name=f"alone {what.name}",
            num_classes=run.bundle.num_classes,
        ),
        replace(plan, phases=(phase,)),
        session.train,
        folder=what.folder,
        options=TrainOptions(
            seed=run.config.seed,
            autocast=bool(run.config.train.autocast),
            micro_batches=run.config.train.micro_batches,
            pace=Pace(
                seconds_left=lambda crowding: end - time.monotonic(),
                step_seconds=(1.0,),
                every_s=min(20.0, 0.02 * what.budget_s),
            ),
        ),
        callbacks=Callbacks(
            on_event=partial(run.tell_of, what.kind, what.name),
            should_stop=run.should_stop,
            change_batch=session.change_batch,
        ),
        ranks=run.ranks,
    )
    model.eval()


def begin_alone(run: Run, kind: str, name: str) -> None:
    """Write down that a training begins anew: what an earlier one of this name told is over."""
    run.emit({"event": f"{kind}_begun", "model": name})


def seconds_of(run: Run, what: Alone) -> float:
    """Return the seconds of a training so far, those before interruptions included."""
    told = _events(run, what, "epoch", "checkpoint")
    return max((float(event.get("seconds", 0.0)) for event in told), default=0.0)


def epochs_of(run: Run, what: Alone) -> float:
    """Return the passes of a training that is done."""
    return float(_events(run, what, "epoch")[-1]["epochs_done"])


def _events(run: Run, what: Alone, *kinds: str) -> list[Event]:
    begun, names = f"{what.kind}_begun", [f"{what.kind}_{kind}" for kind in kinds]
    told = [e for e in run.folder.read_events(begun, *names) if e["model"] == what.name]
    first = max((i + 1 for i, event in enumerate(told) if event["event"] == begun), default=0)
    return told[first:]
