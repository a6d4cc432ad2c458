"""The optimizer of a phase, and averaging of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


def make_optimizer(
    net: nn.Module,
    *,
    momentum: float,
    weight_decay: float,
    decay_transforms: bool = False,
    head: nn.Module | None = None,
    head_factor: float = 1.0,
) -> torch.optim.Optimizer:
    """Return Nesterov SGD: decayed weights, everything else, and both again for the head.

    Norm parameters and biases, which are all vectors, are not decayed. Parameters without a
    gradient are skipped, so layers that no subnet of a step used keep their value and momentum.

    Args:
        net: Network to train.
        momentum: Nesterov momentum; 0 for plain gradient descent.
        weight_decay: Decay of convolution and linear weights.
        decay_transforms: Decay kernel transforms as well: they shrink towards zero, not towards
            the identity.
        head: Part of ``net`` with a learning rate of its own.
        head_factor: That learning rate over the others'.
    """
    in_head = set() if head is None else {id(p) for p in head.parameters()}
    parts: dict[tuple[float, float], list[nn.Parameter]] = {
        (decay, factor): []
        for factor in dict.fromkeys((1.0, head_factor))
        for decay in dict.fromkeys((weight_decay, 0.0))
    }
    for module in net.modules():
        for parameter in module.parameters(recurse=False):
            is_vector = parameter.ndim < 2  # biases, and scales and shifts of norms
            is_kept = isinstance(module, nn.ParameterDict) and not decay_transforms
            decay = 0.0 if is_vector or is_kept else weight_decay
            factor = head_factor if id(parameter) in in_head else 1.0
            parts[decay, factor].append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (decay, factor), parameters in parts.items()
        if parameters
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every group, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["factor"]


def average_decay(decay: float, step: int) -> float:
    """Return the decay of a weight average at one step: small at first, then ``decay``.

    With ``decay`` from the start, ``decay ** steps`` of an average are its random initial weights:
    37 % of it after 1,000 steps at 0.999. With ``(1 + step) / (10 + step)`` they are forgotten.

    Args:
        decay: Decay in the long run, in [0, 1).
        step: Steps done before this one.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: dict[str, Tensor], net: nn.Module, decay: float) -> None:
    """Move the tensors of ``average`` towards the network's parameters that learn."""
    learning = [(average[name], p) for name, p in net.named_parameters() if p.requires_grad]
    if learning:
        averages, parameters = zip(*learning, strict=True)
        torch._foreach_lerp_(averages, parameters, 1 - decay)


def parameters_copy(net: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter by name."""
    return {name: p.detach().clone() for name, p in net.named_parameters()}


@contextlib.contextmanager
def averaged_weights(net: nn.Module, average: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a network its averaged weights for a while; without any, leave it as it is."""
    if not average:
        yield
        return
    kept = parameters_copy(net)
    try:
        _copy_weights(net, average)
        yield
    finally:
        _copy_weights(net, kept)


@torch.no_grad()
def _copy_weights(net: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, parameter in net.named_parameters():
        parameter.copy_(values[name])
