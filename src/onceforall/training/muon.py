"""Muon: steps of equal size in every direction, for the weights of convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# A quintic whose iteration brings singular values of (0, 1] near 1, the smallest soonest.
# Source: Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalized(matrices: Tensor) -> Tensor:
    """Return matrices ``(N, R, C)`` with singular vectors as they are and values near 1.

    Values end between 0.7 and 1.2; those far below the largest (10,000 times) end below, and
    zeros stay. Five Newton-Schulz iterations: matrix products only.

    Source: Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024.
    """
    a, b, c = _QUINTIC
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """Turns weights ``(R, ...)``, each a matrix of R rows, and keeps their length.

    A step is the orthogonalized Nesterov momentum, ``lr`` times as long as the weight, which then
    takes its old length again: what a norm follows is free in its length, and so ``lr`` is an
    angle whatever the layer's size. A weight of zeros stays.

    Args:
        groups: Parameters of at least two dimensions, with ``factor`` and whatever else a group
            has.
        momentum: Nesterov momentum.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], *, momentum: float) -> None:
        super().__init__([dict(group) for group in groups], {"lr": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Do one step; parameters without a gradient keep their value and momentum."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for parameters in alike.values():  # one product for all of a shape
                self._turn(parameters, group["lr"], group["momentum"])

    def _turn(self, parameters: list[nn.Parameter], lr: float, momentum: float) -> None:
        ahead = torch.stack([self._momentum(p, momentum).flatten(1) for p in parameters])
        size = math.sqrt(min(ahead.shape[1:]))  # of an orthogonal matrix
        for parameter, turn in zip(parameters, orthogonalized(ahead), strict=True):
            length = parameter.norm()
            parameter.sub_(turn.view_as(parameter) * (length * (lr / size)))
            parameter.mul_(length / parameter.norm().clamp_min(1e-12))

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Return the gradient with the momentum that it leads to."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        kept: Tensor = state["momentum"].mul_(momentum).add_(gradient)
        return gradient + momentum * kept
