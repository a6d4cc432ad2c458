"""Elastic fully connected layers and squeeze-excite.

Shape suffixes: B batch, C channels, M hidden channels, H/W height/width, F features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onceforall.ops.functional import leading_block, spatial_mean


class ElasticLinear(nn.Module):
    """Fully connected layer on the first features; the input's width says how many.

    Args:
        max_in_features: Largest number of input features.
        out_features: Number of outputs.
    """

    def __init__(self, max_in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, max_in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.uniform_(self.weight, -(max_in_features**-0.5), max_in_features**-0.5)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Map ``(B, F)`` to ``(B, out_features)``."""
        # Matrix products sum in another order when rows are strided; extraction is bitwise equal.
        weight = leading_block(self.weight, len(self.weight), x_BF.shape[1]).contiguous()
        return F.linear(x_BF, weight, self.bias)

    @torch.no_grad()
    def copy_to(self, plain: nn.Linear) -> None:
        """Copy the weights of one subnet into a plain layer of its shape."""
        plain.weight.copy_(self.weight[:, : plain.in_features])
        plain.bias.copy_(self.bias)


class SqueezeExcite(nn.Module):
    """Scale channels by a gate computed from their means: the plain twin of the elastic one.

    Args:
        channels: Channels of the input.
        hidden_channels: Channels between the two 1x1 convolutions.

    Source: Howard et al., *Searching for MobileNetV3*, ICCV 2019, section 5.3.
    """

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden_channels, 1)
        self.expand = nn.Conv2d(hidden_channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return ``(B, C, H, W)`` scaled per image and channel."""
        gate_BC11 = spatial_mean(x_BCHW)
        gate_BC11 = F.hardsigmoid(self.expand(F.relu(self.reduce(gate_BC11))))
        return x_BCHW * gate_BC11


class ElasticSqueezeExcite(nn.Module):
    """Squeeze-excite on the first channels, with a hidden width chosen per call.

    Args:
        max_channels: Largest number of channels.
        max_hidden_channels: Largest number of hidden channels.
    """

    def __init__(self, max_channels: int, max_hidden_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(max_channels, max_hidden_channels, 1)
        self.expand = nn.Conv2d(max_hidden_channels, max_channels, 1)

    def forward(self, x_BCHW: Tensor, hidden_channels: int) -> Tensor:
        """Return ``(B, C, H, W)`` scaled per image and channel."""
        channels = x_BCHW.shape[1]
        reduce_weight = leading_block(self.reduce.weight, hidden_channels, channels)
        expand_weight = leading_block(self.expand.weight, channels, hidden_channels)
        gate_BC11 = spatial_mean(x_BCHW)
        hidden_BM11 = F.relu(
            F.conv2d(gate_BC11, reduce_weight, _head(self.reduce, hidden_channels))
        )
        gate_BC11 = F.hardsigmoid(
            F.conv2d(hidden_BM11, expand_weight, _head(self.expand, channels))
        )
        return x_BCHW * gate_BC11

    @torch.no_grad()
    def copy_to(self, plain: SqueezeExcite) -> None:
        """Copy the weights of one subnet into a plain squeeze-excite of its shape."""
        hidden, channels = plain.reduce.weight.shape[:2]
        plain.reduce.weight.copy_(self.reduce.weight[:hidden, :channels])
        plain.reduce.bias.copy_(_head(self.reduce, hidden))  # type: ignore[union-attr]
        plain.expand.weight.copy_(self.expand.weight[:channels, :hidden])
        plain.expand.bias.copy_(_head(self.expand, channels))  # type: ignore[union-attr]


def _head(conv: nn.Conv2d, channels: int) -> Tensor:
    """Return the first entries of a convolution's bias."""
    if conv.bias is None:
        raise ValueError("squeeze-excite convolutions have a bias")
    return conv.bias[:channels]
