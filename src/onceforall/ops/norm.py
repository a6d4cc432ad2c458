"""Elastic batch normalisation.

Shape suffixes: B batch, C channels, H/W height/width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ElasticBatchNorm2d(nn.Module):
    """Batch norm of the first channels; the input's width says how many.

    In training mode the batch's statistics normalise, and the running statistics of the channels
    that ran are updated; the tail keeps its values. Running statistics are a mixture over subnets
    and must be recalibrated before a subnet is evaluated. ``num_batches_tracked`` is left to the
    network: nothing here reads it, and on a GPU a kernel for each norm would count.

    Args:
        max_channels: Largest number of channels.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, max_channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(max_channels))
        self.bias = nn.Parameter(torch.zeros(max_channels))
        self.register_buffer("running_mean", torch.zeros(max_channels))
        self.register_buffer("running_var", torch.ones(max_channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)``; C may be anything up to the largest width."""
        channels = x_BCHW.shape[1]
        # Attributes of nn.Module are slow to look up, and a network has fifty norms: read the
        # dictionaries that they come from.
        buffers: dict[str, Any] = self._buffers
        parameters: dict[str, Any] = self._parameters
        mean, var = buffers["running_mean"], buffers["running_var"]
        weight, bias = parameters["weight"], parameters["bias"]
        if channels != len(weight):
            mean, var = mean[:channels], var[:channels]
            weight, bias = weight[:channels], bias[:channels]
        return F.batch_norm(x_BCHW, mean, var, weight, bias, self.training, self.momentum, self.eps)

    @torch.no_grad()
    def copy_to(self, plain: nn.BatchNorm2d) -> None:
        """Copy parameters and running statistics into a plain batch norm of fewer channels.

        It has seen no batch yet.
        """
        channels = plain.num_features
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(plain, name).copy_(getattr(self, name)[:channels])
        if plain.num_batches_tracked is not None:
            plain.num_batches_tracked.zero_()

    @torch.no_grad()
    def copy_statistics(self, plain: nn.BatchNorm2d) -> None:
        """Copy the running statistics of a plain batch norm to the first channels."""
        for name in ("running_mean", "running_var"):
            getattr(self, name)[: plain.num_features].copy_(getattr(plain, name))


def count_batch(norms: Sequence[ElasticBatchNorm2d]) -> None:
    """Add one to ``num_batches_tracked`` of the norms that are training, all at once."""
    counters: list[Any] = [norm._buffers["num_batches_tracked"] for norm in norms if norm.training]
    if counters:
        torch._foreach_add_(counters, 1)
