"""Fine-tuning shipped models of a run: each becomes another one, proven and measured alike.

Each is trained with the run's processes. As a module it is a further process of such a training.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from onceforall.artifacts import Card, FinetuneSettings, FinetuneStart
from onceforall.deploy.finetune import finetune, finetune_plan
from onceforall.deploy.model_folder import finished_or_removed, read_model
from onceforall.errors import ConfigError
from onceforall.job.context import Run
from onceforall.job.interpolation import trained_subnets
from onceforall.job.local_ranks import run_on_all, take_part
from onceforall.job.steps.prove import measure_as_shipped, prove, write_proven
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.supernets.nets import PlainNet
from onceforall.training.settings import Callbacks, TrainOptions


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How models are fine-tuned.

    Attributes:
        epochs: Passes over the training images.
        learning_rate: Peak, for the run's reference batch; above 0.
        distill: Learn from the supernet's largest subnet besides the labels.
    """

    epochs: int
    learning_rate: float
    distill: bool

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning rate {self.learning_rate:g} is not above 0")

    @property
    def settings(self) -> FinetuneSettings:
        """Return what the card of a model says of it besides the epochs."""
        return FinetuneSettings(learning_rate=self.learning_rate, distill=self.distill)


def finetune_model(run: Run, name: str, how: Tuning) -> Card:
    """Fine-tune a shipped model on the run's training images; ship it as a new one.

    Args:
        run: A run with models.
        name: Name of the model to start from.
        how: How.

    Returns:
        The card of ``<name>-finetune<epochs>``.

    Raises:
        ConfigError: If there is no such model, or it was fine-tuned as long with other settings.
        Interrupted: If it was asked to stop; the same call goes on.
        VerificationError: If the files are not proven; nothing is left of them then.
    """
    card, plain = shipped_model(run, name)
    tuned = tuned_folder(run, name, how)
    if run.folder.card(tuned.name).is_file():
        return _same_settings(tuned, Card.read(run.folder.card(tuned.name)), how.settings)
    names = [name, json.dumps(dataclasses.asdict(how))]
    _begin(_checkpoints(run, tuned), card, how)
    with run_on_all(run, "onceforall.job.steps.finetune", names) as together:
        model = _train(together, card, plain, how)
    session = run.session()
    model = model.to(run.device, memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    recalibrate_bn(model, list(session.calibration_batches(card.resolution)))
    with finished_or_removed(tuned):
        proven = prove(run, session, model.cpu(), tuned, card.arch)
        (latency,) = measure_as_shipped(run, [proven])
        done = write_proven(
            tuned,
            proven,
            latency,
            finetuned_from=name,
            finetune_epochs=how.epochs,
            finetune_settings=how.settings,
        )
    shutil.rmtree(_checkpoints(run, tuned), ignore_errors=True)
    return done


def finetune_all(run: Run, how: Tuning) -> list[Card]:
    """Fine-tune every shipped model; what is done is found again.

    Returns:
        The cards, in the order of the models that they come from.

    Raises:
        ConfigError: If there are none, or one was fine-tuned as long with other settings: before
            anything is trained.
        Interrupted: If it was asked to stop; the same call goes on.
    """
    cards = [card for card in run.folder.read_cards() if card.finetuned_from is None]
    if not cards:
        raise ConfigError(f"{run.folder.path} has no models yet: run  ofa run")
    for card in cards:
        path = run.folder.card(tuned_folder(run, card.name, how).name)
        if path.is_file():
            _same_settings(path.parent, Card.read(path), how.settings)
    done = []
    for number, card in enumerate(cards, start=1):
        if not run.folder.card(tuned_folder(run, card.name, how).name).is_file():
            place = {"number": number, "of": len(cards), "step": card.name}
            text = f"{how.epochs} epochs of fine-tuning"
            run.tell({"event": "step_started", "text": text, **place})
        done.append(finetune_model(run, card.name, how))
    return done


def tuned_folder(run: Run, name: str, how: Tuning) -> Path:
    """Return the folder of a model once it is fine-tuned."""
    return run.folder.models / f"{name}-finetune{how.epochs}"


def usual_tuning(
    run: Run, *, epochs: int, learning_rate: float | None = None, distill: bool = False
) -> Tuning:
    """Return how models are fine-tuned, with the run's learning rate where none is said."""
    rate = run.config.grid.finetune_rate if learning_rate is None else learning_rate
    return Tuning(epochs=epochs, learning_rate=rate, distill=distill)


def _checkpoints(run: Run, tuned: Path) -> Path:
    return run.folder.checkpoints / tuned.name


def _begin(folder: Path, card: Card, how: Tuning) -> None:
    """Drop what another training of this name left: of other weights, or with other settings."""
    start = FinetuneStart(
        weights=card.files["model.safetensors"].sha256, finetune_settings=how.settings
    )
    path = folder / "started.json"
    if path.is_file() and FinetuneStart.read(path) == start:
        return
    shutil.rmtree(folder, ignore_errors=True)
    start.write(path)


def _train(run: Run, card: Card, plain: PlainNet, how: Tuning) -> PlainNet:
    """Train a model as one of the run's ranks."""
    tuned = tuned_folder(run, card.name, how)
    model: PlainNet = plain.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    session, train = run.session(), run.config.train
    finetune(
        model,
        dataclasses.replace(
            finetune_plan(
                epochs=how.epochs,
                learning_rate=how.learning_rate,
                reference_batch=train.reference_batch,
                distill=how.distill,
                label_smoothing=train.label_smoothing,
                weight_decay=train.weight_decay,
            ),
            train_side=train.side,
        ),
        session.train,
        resolution=card.resolution,
        num_classes=run.bundle.num_classes,
        folder=_checkpoints(run, tuned),
        options=TrainOptions(
            seed=run.config.seed,
            autocast=bool(train.autocast),
            micro_batches=train.micro_batches,
        ),
        callbacks=Callbacks(
            on_event=partial(run.tell_of, "finetune", tuned.name),
            should_stop=run.should_stop,
            change_batch=session.change_batch,
        ),
        ranks=run.ranks,
        teacher=trained_subnets(run)(run.spec.space.largest) if how.distill else None,
    )
    return model


def take_part_in_tuning(run: Run, names: Sequence[str]) -> None:
    """Train the named model as a further rank."""
    name, how = names
    _train(run, *shipped_model(run, name), Tuning(**json.loads(how)))


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


def shipped_model(run: Run, name: str) -> tuple[Card, PlainNet]:
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


if __name__ == "__main__":
    sys.exit(take_part(take_part_in_tuning))
