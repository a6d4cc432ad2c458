"""The whole job, and its training alone, as one call each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from onceforall.artifacts import Request
from onceforall.data import DataBundle, open_dataset
from onceforall.data.sources.write_npz import Own, check_own, write_own
from onceforall.errors import ConfigError
from onceforall.job.clock import parse_time
from onceforall.job.config import flag
from onceforall.job.context import Tell
from onceforall.job.data import DataSession, image_side, start_session
from onceforall.job.folder import RunFolder
from onceforall.job.machine import named_device
from onceforall.job.nets import network_flags
from onceforall.job.pipeline import Done, run_all
from onceforall.job.recipes import recipe_for
from onceforall.supernets.nets import ElasticNet
from onceforall.supernets.spec import SupernetSpec
from onceforall.training.engine import train as train_by_plan
from onceforall.training.plan import Plan
from onceforall.training.ranks import Ranks
from onceforall.training.settings import Callbacks, TrainOptions


def run(
    data: str | Path | Own,
    *,
    out: str | Path,
    budget: str | float | None = None,
    effort: str | None = None,
    recipe: str = "auto",
    net: str | Path | SupernetSpec | None = None,
    static: str | Path | None = None,
    weights: str | Path | None = None,
    epochs: float | None = None,
    init: str | Path | None = None,
    limits: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    tell: Tell = lambda event: None,
) -> Done:
    """Do the whole job: images in, a Pareto set of measured, verified, exported models out.

    The same call goes on after an interruption, and returns at once when everything is there.

    Args:
        data: A folder of class folders, an ``.npz`` file or a known name; or images and labels of
            your own (`onceforall.data.sources.write_npz.write_own`), which are kept beside ``out``.
        out: Folder of the run.
        budget: Time of the whole call, ``"30m"`` or seconds; None for what ``effort`` means.
        effort: ``quick``, ``balanced`` (where nothing is said) or ``best``.
        recipe: Where settings come from.
        net: A stage table, a file of one, a published supernet id, or what makes any other
            network, e.g. ``torchvision:resnet18``; None for what suits images, time and machine.
        static: A single network to train alone instead: a static family, a published specialised
            id, a ``net.config``, or the folder of a shipped model.
        weights: Weights of ``net`` or ``static`` to start from: a file, or ``official``.
        epochs: Passes over the training images; 0 takes the weights as they are, None what the
            time allows.
        init: A checkpoint to start from that says itself what it is.
        limits: Upper bounds by name, e.g. ``{"latency_ms": 2}``; one model is shipped then.
        settings: Further settings, e.g. ``{"train.epochs": 20}``.
        seed: Seed of everything.
        device: Where to train; the GPU if there is one.
        tell: Takes every event of the run.

    Raises:
        OnceForAllError: If something is wrong that the caller can fix.

    Example:
        >>> done = onceforall.run("digits", out="runs/digits", budget="2m")  # doctest: +SKIP
        >>> done.cards[0].top1, done.cards[0].latency_ms  # doctest: +SKIP
    """
    started, out = time.monotonic(), Path(out)
    if not isinstance(data, str | Path):
        place = out if out.name else out.resolve()
        images = place.with_name(f"{place.name}.npz")
        if images.is_file():
            check_own(data, images, is_begun=RunFolder(path=out).settings.is_file())
        else:
            write_own(data, images)
        data = images
    flags = network_flags(net, static, weights)
    flags += [] if epochs is None else [flag("train.epochs", epochs)]
    flags += [flag(key, value) for key, value in (settings or {}).items()]
    flags += [] if init is None else [flag("train.init", str(init))]
    flags += [flag(f"search.limits.{name}", bound) for name, bound in (limits or {}).items()]
    request = Request(
        source=str(data),
        flags=tuple(flags),
        budget_s=None if budget is None else parse_time(str(budget)),
        effort=effort,
        seed=seed,
        recipe=recipe,
    )
    where = None if device is None else named_device(str(device), Ranks())
    return run_all(request, out, tell=tell, device=where, started=started)


def train(
    net: ElasticNet,
    plan: Plan,
    data: str | Path | DataBundle,
    *,
    folder: str | Path,
    batch_size: int = 64,
    num_valid: int | None = None,
    seed: int = 0,
    autocast: bool = False,
    callbacks: Callbacks | None = None,
) -> DataSession:
    """Train a supernet by a plan, and return the batches that it is measured with.

    The same call goes on from the newest checkpoint in ``folder``. The network is in evaluation
    mode afterwards; recalibrate a subnet's batch norm before its accuracy means anything
    (``ofa.specialize`` does).

    Args:
        net: ElasticNet on its device, e.g. of ``ofa.elastic``.
        plan: What to train, in which order: `onceforall.training.plan`.
        data: Data set, or what `onceforall.open_dataset` takes.
        folder: Folder of checkpoints.
        batch_size: Images a step.
        num_valid: Images held out of training, at least 1; None for a tenth, from 400 to 5,000
            and at most a quarter. A data set with a validation part of its own keeps that.
        seed: Seed of everything that is drawn.
        autocast: Forward passes in bfloat16.
        callbacks: Whom to tell and ask.

    Raises:
        ConfigError: If the network has other classes than the data, or ``num_valid`` is below 1.
        CheckpointError: If ``folder`` holds another training.
        DataError: If there are no training images.
        Interrupted: If a callback asked to stop; a checkpoint is there.
        TrainingError: If training diverged again and again.
    """
    side = net.space.resolutions[-1]
    bundle = data if isinstance(data, DataBundle) else open_dataset(str(data), image_size=side)
    if net.spec.num_classes != bundle.num_classes:
        raise ConfigError(
            f"the network has {net.spec.num_classes} classes, {bundle.name} {bundle.num_classes}"
        )
    if num_valid is not None and num_valid < 1:
        raise ConfigError(f"num_valid {num_valid} is not at least 1")
    recipe = recipe_for(
        bundle.name,
        image_side=image_side(bundle.test),
        num_train=bundle.num_train,
        num_classes=bundle.num_classes,
        seed=seed,
    )
    held_out = recipe.data.num_valid if num_valid is None else num_valid
    config = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"num_valid": held_out}),
            "train": recipe.train.model_copy(update={"batch_size": batch_size}),
        }
    )
    device = next(net.parameters()).device
    session = start_session(config, bundle, device=device)
    options = TrainOptions(seed=seed, autocast=autocast)
    train_by_plan(
        net, plan, session.train, folder=Path(folder), options=options, callbacks=callbacks
    )
    net.eval()
    return session
