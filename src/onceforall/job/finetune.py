"""Fine-tuning a shipped model of a run: it becomes another one, proven and measured alike."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path

from onceforall.artifacts import Card, FinetuneSettings
from onceforall.deploy.finetune import finetune, finetune_plan
from onceforall.deploy.model_folder import finished_or_removed, read_model
from onceforall.errors import ConfigError
from onceforall.job.context import Event, Run
from onceforall.job.prove import measure_as_shipped, prove_plain, write_proven
from onceforall.job.weights import trained_supernet
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.supernets.static import StaticNet
from onceforall.training.settings import Callbacks, TrainOptions


def finetune_model(
    run: Run, name: str, *, epochs: int, learning_rate: float, distill: bool
) -> Card:
    """Fine-tune a shipped model on the run's training images; ship it as a new one.

    Args:
        run: A run with models.
        name: Name of the model to start from.
        epochs: Passes over the training images.
        learning_rate: Peak, for the run's reference batch.
        distill: Learn from the supernet's largest subnet besides the labels.

    Returns:
        The card of ``<name>-finetune<epochs>``.

    Raises:
        ConfigError: If there is no such model, it was fine-tuned as long with other settings, or
            the learning rate is not above 0.
        Interrupted: If it was asked to stop; the same call goes on.
        VerificationError: If the files are not proven; nothing is left of them then.
    """
    if not 0 < learning_rate < math.inf:
        raise ConfigError(f"learning rate {learning_rate:g} is not above 0")
    card, plain = shipped_model(run, name)
    tuned = run.folder.models / f"{name}-finetune{epochs}"
    settings = FinetuneSettings(learning_rate=learning_rate, distill=distill)
    if run.folder.card(tuned.name).is_file():
        return _same_settings(tuned, Card.read(run.folder.card(tuned.name)), settings)
    session = run.session()
    model = plain.to(run.device)
    finetune(
        model,
        dataclasses.replace(
            finetune_plan(
                epochs=epochs,
                learning_rate=learning_rate,
                reference_batch=run.config.train.reference_batch,
                distill=distill,
                label_smoothing=run.config.train.label_smoothing,
                weight_decay=run.config.train.weight_decay,
            ),
            train_side=run.config.train.side,
        ),
        session.train,
        resolution=card.resolution,
        num_classes=run.bundle.num_classes,
        folder=run.folder.checkpoints / tuned.name,
        options=TrainOptions(
            seed=run.config.seed,
            autocast=bool(run.config.train.autocast),
            micro_batches=run.config.train.micro_batches,
        ),
        callbacks=Callbacks(
            on_event=partial(_tell_finetuning, run, tuned.name),
            should_stop=run.should_stop,
            change_batch=session.change_batch,
        ),
        teacher=trained_supernet(run) if distill else None,
    )
    recalibrate_bn(model, list(session.calibration_batches(card.resolution)))
    with finished_or_removed(tuned):
        proven = prove_plain(run, session, model.cpu(), tuned, card.arch)
        (latency,) = measure_as_shipped(run, [proven])
        return write_proven(
            tuned,
            proven,
            latency,
            finetuned_from=name,
            finetune_epochs=epochs,
            finetune_settings=settings,
        )


def _same_settings(tuned: Path, done: Card, settings: FinetuneSettings) -> Card:
    """Return the card of a model that is fine-tuned already.

    Raises:
        ConfigError: If that was with other settings.
    """
    before = (done.finetune_settings or settings).model_dump()
    for key, value in settings.model_dump().items():
        if before[key] != value:
            raise ConfigError(
                f"{tuned} was fine-tuned with {key} {before[key]}, not {value}; remove it, or use "
                "another number of epochs"
            )
    return done


def shipped_model(run: Run, name: str) -> tuple[Card, StaticNet]:
    """Return a model of a run, by the name of its folder: its card and its network.

    Raises:
        ConfigError: If there is no such model.
        VerificationError: If a file was changed since it shipped.
    """
    names = sorted(path.parent.name for path in run.folder.models.glob("*/card.json"))
    if not names:
        raise ConfigError(f"{run.folder.path} has no models yet: run  ofa run")
    if name not in names:
        raise ConfigError(f"model {name!r} is not one of {', '.join(names)}")
    return read_model(run.folder.models / name)


def _tell_finetuning(run: Run, name: str, event: Event) -> None:
    """Show an event; keep it as one of this model, beside those of the supernet's training."""
    run.tell(event)
    if event["event"] != "step":
        run.emit({**event, "event": f"finetune_{event['event']}", "model": name})
