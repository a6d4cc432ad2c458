"""The supernet of a run: fresh, from a checkpoint, or trained."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from onceforall.errors import CheckpointError, ConfigError
from onceforall.job.context import Run
from onceforall.job.factories import network_of
from onceforall.job.transfer import load_start
from onceforall.supernets.graphs.supernet import GraphSupernet
from onceforall.supernets.nets import ElasticNet, new_net
from onceforall.supernets.weights import load_saved_supernet


def new_supernet(run: Run) -> ElasticNet:
    """Return the run's supernet before training, on its device.

    Weights are drawn from PyTorch's current generator; a traced network has its own.
    """
    config = run.config
    net: ElasticNet
    if config.supernet.family != "graph":
        net = new_net(run.spec)
    elif run.folder.network.is_file():
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


def trained_supernet(run: Run) -> ElasticNet:
    """Return the run's trained supernet, in eval mode, on its device.

    Raises:
        CheckpointError: If it is not trained yet.
    """
    if not run.folder.supernet.is_file():
        raise CheckpointError(f"{run.folder.path} has no trained supernet yet: run  ofa train")
    net, _ = load_saved_supernet(run.folder.supernet)
    return net.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
