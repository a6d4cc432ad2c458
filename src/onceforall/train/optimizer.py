"""The optimizer of a phase, and averaging of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onceforall.ops.norm import ElasticBatchNorm2d


def make_optimizer(
    net: nn.Module, *, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return Nesterov SGD with two groups: decayed weights, and everything else.

    Norm parameters, biases and kernel transforms are not decayed: a decayed transform shrinks
    towards zero instead of towards the identity. Parameters without a gradient are skipped, so
    layers that no subnet of a step used keep their value and momentum.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_norm = isinstance(module, ElasticBatchNorm2d | nn.BatchNorm2d)
            is_transform = isinstance(module, nn.ParameterDict)
            (kept if is_norm or is_transform or name == "bias" else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@torch.no_grad()
def update_average(average: dict[str, Tensor], net: nn.Module, decay: float) -> None:
    """Move every tensor of ``average`` towards the network's parameter of that name."""
    names, tensors = zip(*net.named_parameters(), strict=True)
    torch._foreach_lerp_([average[n] for n in names], [t.detach() for t in tensors], 1 - decay)


def parameters_copy(net: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter by name."""
    return {name: p.detach().clone() for name, p in net.named_parameters()}
