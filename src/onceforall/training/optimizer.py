"""The optimizer of a phase, and averaging of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from onceforall.supernets.blocks import ConvUnit
from onceforall.supernets.elastic_blocks import ElasticConvUnit
from onceforall.training.muon import Muon

_IMAGE_CHANNELS = 3
_NO_NORM = (nn.Identity, type(None))


class Optimizers:
    """Several optimizers, each of parameters of its own, that step as one.

    Args:
        parts: The optimizers.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Return the groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """Do a step of each part."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all parts; of a single one, its own."""
        if len(self.parts) == 1:
            return self.parts[0].state_dict()
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the states of all parts."""
        states = [state] if len(self.parts) == 1 else state["parts"]
        for part, own in zip(self.parts, states, strict=True):
            part.load_state_dict(dict(own))


def make_optimizer(
    net: nn.Module,
    *,
    momentum: float,
    weight_decay: float,
    decay_transforms: bool = False,
    head: nn.Module | None = None,
    head_factor: float = 1.0,
    muon_factor: float = 0.0,
) -> Optimizers:
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
        muon_factor: Learning rate of :class:`~onceforall.training.muon.Muon`, which trains the
            weights of inner convolutions then, over the others'; 0 for SGD everywhere.
    """
    in_head = set() if head is None else {id(p) for p in head.parameters()}
    units = [m for m in net.modules() if isinstance(m, ConvUnit | ElasticConvUnit)]
    turned = [u.conv.weight for u in units if muon_factor and _is_inner_convolution(u)]
    by_muon = {id(p) for p in turned}
    parts: dict[tuple[float, float], list[nn.Parameter]] = {
        (decay, factor): []
        for factor in dict.fromkeys((1.0, head_factor))
        for decay in dict.fromkeys((weight_decay, 0.0))
    }
    for module in net.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) in by_muon:
                continue
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
    sgd = torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)
    if not turned:
        return Optimizers(sgd)
    return Optimizers(sgd, Muon([{"params": turned, "factor": muon_factor}], momentum=momentum))


def _is_inner_convolution(unit: ConvUnit | ElasticConvUnit) -> bool:
    """Return whether a norm follows a convolution of all channels, but not that of images.

    Their few channels are not alike. Without a norm the length of a weight says something.
    """
    channels = unit.conv.weight.shape[1]
    is_whole = getattr(unit.conv, "groups", 1) == 1
    return is_whole and channels > _IMAGE_CHANNELS and not isinstance(unit.bn, _NO_NORM)


def set_learning_rate(optimizer: Optimizers, learning_rate: float) -> None:
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
