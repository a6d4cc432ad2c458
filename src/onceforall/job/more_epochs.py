"""Training that goes on after its end, for some more epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onceforall.job.context import Event, Run
from onceforall.job.data import DataSession
from onceforall.job.interpolation import trained_subnets
from onceforall.job.steps.validation import Validation
from onceforall.job.weights import trained_supernet
from onceforall.supernets.nets import ElasticNet
from onceforall.training.engine import train
from onceforall.training.settings import Callbacks, TrainOptions

# Of the last phase's peak: its cosine has gone down to nothing, and what is learned should stay.
_RATE = 0.3
# What events count from the beginning of all training.
_COUNTS = ("epoch", "epochs", "epochs_done")


def train_on(run: Run, session: DataSession, number: int, facts: Mapping[str, Any]) -> ElasticNet:
    """Return the run's supernet, trained on as in the last phase of its plan, from a lower rate.

    Interrupted, the same call goes on from its own checkpoints; the supernet of the run stays what
    it was until the caller writes the new one.

    Args:
        run: A run with a trained supernet.
        session: Its data.
        number: How often it was trained on before.
        facts: What is written beside the best state.
    """
    net, plan, config = trained_supernet(run), run.config.plan(run.spec), run.config
    phase = replace(
        plan.phases[-1],
        name=f"more {number + 1}",
        epochs=config.train.more_epochs[number],
        learning_rate=_RATE * plan.phases[-1].learning_rate,
        warmup_epochs=0.0,
        cosine_part=(0.0, 1.0),
        sort_channels=None,
        ramp=0.0,
    )
    teacher: ElasticNet | None = None
    if phase.teacher == "frozen":  # it learns from what it was
        teacher = trained_subnets(run)(net.space.largest).requires_grad_(False)
    before = _epochs_before(run, phase.name)

    def tell(event: Event) -> None:
        counted = {key: event[key] + before for key in _COUNTS if key in event}
        run.emit({**event, **counted})

    train(
        net,
        replace(plan, phases=(phase,)),
        session.train,
        folder=run.folder.checkpoints / f"more-{number + 1:02d}",
        options=TrainOptions(
            seed=config.seed + number + 1,  # other orders and subnets than in the first epochs
            autocast=bool(config.train.autocast),
            micro_batches=config.train.micro_batches,
        ),
        callbacks=Callbacks(
            on_event=tell,
            should_stop=run.should_stop,
            after_epoch=Validation(run=run, session=session, facts=facts, epochs_before=before),
            change_batch=session.change_batch,
        ),
        ranks=run.ranks,
        teacher=teacher,
    )
    return net


def _epochs_before(run: Run, phase: str) -> int:
    """Return the epochs that were done before a phase; a time to keep changes what was planned."""
    told = [event for event in run.folder.read_events("epoch") if event["phase"] != phase]
    return int(told[-1]["epochs_done"]) if told else 0
