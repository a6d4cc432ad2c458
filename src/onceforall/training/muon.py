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

    Values end between 0.6 and 1.2; those below a thousandth of all together end below, and zeros
    stay. Five Newton-Schulz iterations: each multiplies a matrix X by a polynomial of X X', which
    has the singular vectors of the first X. So they run on X X' alone, which is smaller, and X is
    multiplied once.

    Source: Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    gram = x @ x.mT
    factor = product = _polynomial(gram)
    for _ in range(_ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram)
        product = factor @ product
    found: Tensor = product @ x
    return found.mT if is_tall else found


def _polynomial(gram: Tensor) -> Tensor:
    a, b, c = _QUINTIC
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    return torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * identity


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
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        kept = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_mul_(kept, momentum)
        torch._foreach_add_(kept, gradients)
        ahead = torch.stack(torch._foreach_add(gradients, kept, alpha=momentum)).flatten(2)
        weights = torch.stack(list(parameters)).flatten(2)
        lengths = weights.norm(dim=(1, 2), keepdim=True)
        size = math.sqrt(min(weights.shape[1:]))  # of an orthogonal matrix
        weights = weights - orthogonalized(ahead) * (lengths * (lr / size))
        weights *= lengths / weights.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        shape = (len(parameters), *parameters[0].shape)
        torch._foreach_copy_(list[Tensor](parameters), weights.view(shape).unbind())
