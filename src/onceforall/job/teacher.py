"""Whether a network that came with weights of its own teaches its subnets."""

from __future__ import annotations

import dataclasses

import torch

from onceforall.job.config import RunConfig
from onceforall.job.context import Run
from onceforall.job.weights import load_initial_weights, new_supernet
from onceforall.measure.accuracy import evaluate
from onceforall.training.ranks import Ranks

# Of training images. One that is right on all of them, trained to its end, made small subnets
# better by one to two points, one that is right on 78 % cost them three to six: trials on
# photographs, docs/results/own-network.md. In between nothing is known.
_KNOWS = 0.95
_IMAGES, _BATCH = 256, 64


def decide_teacher(run: Run) -> RunConfig:
    """Return the configuration with ``train.distillation`` decided, where it is left open.

    It is for plan ``original``, of weights that training starts from as they are: there the network
    as it was may teach every subnet.
    """
    train = run.config.train
    is_open = train.plan == "original" and not train.phases and train.distillation is None
    if not (is_open and train.init and train.epochs != 0) or train.reinit_head or train.start_at:
        return run.config
    if train.teacher:  # named, so it is to teach
        return _with_distillation(run.config, "soft_targets")
    with torch.random.fork_rng(devices=[]):
        net = new_supernet(run)
    load_initial_weights(run, net)
    original = net.extract(net.space.largest)
    # One process decides for all, on all of the images.
    alone = dataclasses.replace(run, ranks=Ranks())
    images = alone.training_sample(_IMAGES, batch_size=_BATCH)
    top1 = evaluate(original, images.batches(net.space.largest.resolution)).top1
    return _with_distillation(run.config, "soft_targets" if top1 >= _KNOWS else "none")


def _with_distillation(config: RunConfig, kind: str) -> RunConfig:
    train = config.train.model_copy(update={"distillation": kind})
    return config.model_copy(update={"train": train})
