"""The supernet of a run: fresh, from a checkpoint, or trained."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from onceforall.errors import BlueprintError, CheckpointError, ConfigError
from onceforall.job.context import Run
from onceforall.job.data import DataSession
from onceforall.job.outside_nets import network_of
from onceforall.job.transfer import load_start
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.supernets.graphs.supernet import GraphSupernet
from onceforall.supernets.nets import ElasticNet, body_of, linear_of, new_net
from onceforall.supernets.weights import load_saved_supernet
from onceforall.training.linear_probe import features_of, fit_linear
from onceforall.training.ranks import gather_rows, sum_over_ranks

# Training images that a fresh classifier is fitted to, over all ranks, and the most of training's
# time that it may take.
_MOST_FITTED = 20_000
_FIT_SHARE = 0.05


def new_supernet(run: Run) -> ElasticNet:
    """Return the run's supernet before training, on its device.

    Weights are drawn from PyTorch's current generator; a traced network has its own.
    """
    config = run.config
    net: ElasticNet
    if config.supernet.family != "graph":
        net = new_net(run.spec)
    elif run.folder.has_network():
        net, _ = load_saved_supernet(run.folder.network)
    else:
        net = copy.deepcopy(
            network_of(
                config.supernet,
                run.bundle.num_classes,
                init=config.train.init,
                reinit_head=config.train.reinit_head,
                seed=config.seed,
            )
        )
    return net.train().to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def load_initial_weights(run: Run, net: ElasticNet) -> None:
    """Start from a checkpoint if the configuration names one.

    Raises:
        CheckpointError: If the weights do not fit.
        ConfigError: If there are none where some are needed.
    """
    config = run.config.train
    if config.init:
        if not isinstance(net, GraphSupernet):  # a traced network was made with its weights
            load_start(net, Path(config.init), reinit_head=config.reinit_head)
    elif config.freeze_backbone:
        raise ConfigError("train.freeze_backbone needs train.init: random weights would stay")
    elif config.start_at:
        raise ConfigError(
            f"train.start_at {config.start_at!r} needs train.init: the weights that the phases "
            "before it left"
        )


@torch.no_grad()
def fit_fresh_classifier(run: Run, session: DataSession, net: ElasticNet) -> None:
    """Fit the classifier of the largest subnet to its features, where it was drawn at random.

    The same call gives the same bits; a restart in the middle of training makes it again, for a
    teacher that is kept in no checkpoint.

    Args:
        run: The run, as one of its ranks.
        session: Its data.
        net: Supernet with the weights that training starts from; its classifier is changed.
    """
    config, ranks = run.config.train, run.ranks
    is_fresh = config.init and config.reinit_head and not config.start_at
    if not (is_fresh and config.fit_head):
        return
    arch = net.space.largest
    plain = net.extract(arch)
    try:
        body, tensors = body_of(plain), linear_of(net)
    except BlueprintError:
        return  # of another kind: it learns with the rest
    recalibrate_bn(body, session.calibration_batches(arch.resolution))
    features, labels = features_of(body, _batches_to_fit(run, session))
    rows = torch.cat([features, labels[:, None].to(features.dtype)], dim=1)
    rows = gather_rows(rows, ranks)
    fitted = fit_linear(
        rows[:, :-1],
        rows[:, -1].long(),
        num_classes=run.bundle.num_classes,
        label_smoothing=config.label_smoothing,
    )
    for tensor, found in zip(tensors, fitted, strict=True):
        # As rank 0 found it: machines may round differently.
        tensor.copy_(sum_over_ranks(found if ranks.is_main else torch.zeros_like(found), ranks))


def _batches_to_fit(run: Run, session: DataSession) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the first batches of this rank, as many as are needed and there is time for."""
    side = run.spec.space.largest.resolution
    count = math.ceil(_MOST_FITTED / (run.config.train.batch_size * run.ranks.world_size))
    if run.estimate is not None and run.estimate.step_seconds:
        forward_s = run.estimate.step_seconds[0] / 3
        count = min(count, max(1, int(_FIT_SHARE * run.estimate.train_s / forward_s)))
    batches = session.train.iterate(0, resolution_of=lambda _: side)
    return (batch for _, batch in itertools.islice(batches, count))


def trained_supernet(run: Run) -> ElasticNet:
    """Return the run's trained supernet, in eval mode, on its device.

    Raises:
        CheckpointError: If it is not trained yet.
    """
    if not run.folder.supernet.is_file():
        raise CheckpointError(f"{run.folder.path} has no trained supernet yet: run  ofa train")
    net, _ = load_saved_supernet(run.folder.supernet)
    return net.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
