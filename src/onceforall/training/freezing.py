"""Learning of a part of a network, while everything else stays as it is to the bit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from onceforall.errors import ConfigError
from onceforall.ops.conv import ElasticDepthwiseConv2d
from onceforall.ops.norm import ElasticBatchNorm2d
from onceforall.supernets.single import SingleArchNet

Part = Literal["all", "transforms", "classifier"]
_NORMS = (ElasticBatchNorm2d, nn.BatchNorm1d, nn.BatchNorm2d)


def parameters_of(net: nn.Module, part: Part, *, classifier: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a part of a network.

    Args:
        net: The network.
        part: ``all``, the kernel ``transforms``, or the ``classifier``.
        classifier: Its classifier.

    Raises:
        ConfigError: If the network has no kernel transforms.
    """
    if part == "all":
        return list(net.parameters())
    if part == "classifier":
        return list(classifier.parameters())
    convolutions = [m for m in net.modules() if isinstance(m, ElasticDepthwiseConv2d)]
    found = [parameter for conv in convolutions for parameter in conv.transforms.parameters()]
    if not found:
        raise ConfigError("trainable transforms: the network has one kernel size and no transforms")
    return found


def learn_only(parameters: Iterable[nn.Parameter], chosen: Iterable[nn.Parameter]) -> None:
    """Let only the chosen ones among the parameters have gradients."""
    kept = {id(parameter) for parameter in chosen}
    for parameter in parameters:
        parameter.requires_grad_(id(parameter) in kept)


@contextlib.contextmanager
def kept_statistics(net: nn.Module) -> Iterator[None]:
    """Let batch norms normalise as they do, and leave no trace of it."""
    norms = [m for m in net.modules() if isinstance(m, _NORMS)]
    momenta = [norm.momentum for norm in norms]
    counters: list[Tensor] = [norm.num_batches_tracked for norm in norms]  # type: ignore[misc]
    counted = torch.stack(counters).unbind() if counters else ()
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        if counters:
            torch._foreach_copy_(counters, counted)


@contextlib.contextmanager
def frozen_statistics(net: nn.Module) -> Iterator[None]:
    """Normalise by the batch, as the students do, and leave no trace; nothing is dropped.

    A supernet's running statistics are those of no subnet; a single network keeps to its own.
    The published recipe lets its teacher drop; soft targets that differ at random teach less.
    """
    has_own = isinstance(net, SingleArchNet)
    modes = [(module, module.training) for module in net.modules()]
    try:
        net.eval()
        for module, _ in modes:
            if isinstance(module, _NORMS) and not has_own:
                module.training = True
        with kept_statistics(net):
            yield
    finally:
        for module, training in modes:
            module.training = training
