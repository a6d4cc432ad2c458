"""Pure functions that the elastic operators share.

Shape suffixes: B batch, C channels, O output channels, H/W height/width, K kernel side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("relu", "relu6", "h_swish", "h_sigmoid", "sigmoid", "tanh", "silu", "none")


def activate(x: Tensor, name: str) -> Tensor:
    """Apply the activation called ``name``; ``h_swish(x) = x * relu6(x + 3) / 6``.

    Raises:
        ValueError: If there is no such activation.
    """
    if name == "relu":
        return F.relu(x)
    if name == "relu6":
        return F.relu6(x)
    if name == "h_swish":
        return F.hardswish(x)
    if name == "h_sigmoid":
        return F.hardsigmoid(x)
    if name == "sigmoid":
        return torch.sigmoid(x)
    if name == "tanh":
        return torch.tanh(x)
    if name == "silu":
        return F.silu(x)
    if name == "none":
        return x
    raise ValueError("activation " + name + " is not one of the known ones (see ACTIVATIONS)")


def center_crop(weight_C1KK: Tensor, kernel_size: int) -> Tensor:
    """Return the central ``kernel_size`` x ``kernel_size`` window of every filter."""
    start = (weight_C1KK.shape[-1] - kernel_size) // 2
    return weight_C1KK[..., start : start + kernel_size, start : start + kernel_size]


def leading_block(weight_OCKK: Tensor, out_channels: int, in_channels: int) -> Tensor:
    """Return the weight of the first channels; views are only made where something is cut off."""
    full_out, full_in = weight_OCKK.shape[:2]
    if in_channels != full_in:
        return weight_OCKK[:out_channels, :in_channels]
    return weight_OCKK if out_channels == full_out else weight_OCKK[:out_channels]


def channel_importance(weight_OCKK: Tensor) -> Tensor:
    """Return the L1 norm of every *input* channel of a convolution weight, shape ``(C,)``.

    Source: Cai et al., *Once-for-All*, ICLR 2020, section 3.3, "Elastic width".
    """
    return weight_OCKK.detach().abs().sum(dim=(0, 2, 3))


def banded_order(importance_C: Tensor, widths: Sequence[int], num_opened: int) -> Tensor:
    """Return the channel order for sorting by importance within bands, most important first.

    Elastic width opens one smaller width at a time. Once a width has been trained, the channels
    beyond it must stay beyond it, so sorting works inside bands: with widths ``W_0 > W_1 > ...``
    and ``num_opened = s`` opened so far, the bands are ``[0, W_s)``, ``[W_s, W_(s-1))``, ...,
    ``[W_1, W_0)``. Bands are integers and the sort is stable, so ties keep their order.

    Args:
        importance_C: Score of each of the ``W_0`` channels.
        widths: All elastic widths, largest first.
        num_opened: Number of smaller widths already trained; 0 sorts everything together.

    Returns:
        Permutation of ``0..W_0-1``, int64.

    Source: the published system's stage-aware reorganisation, here with integer bands.
    """
    band_C = torch.zeros_like(importance_C, dtype=torch.int64)
    for width in widths[1 : num_opened + 1]:
        band_C[width:] += 1
    by_importance = torch.argsort(importance_C, descending=True, stable=True)
    by_band = torch.argsort(band_C[by_importance], stable=True)
    return by_importance[by_band]
