"""Pure functions that the elastic operators share.

Shape suffixes: B batch, C channels, O output channels, H/W height/width, K kernel side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.jit import is_scripting, is_tracing  # type: ignore[attr-defined]

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


class _SpatialMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor) -> Tensor:
        is_last = x_BCHW.is_contiguous(memory_format=torch.channels_last)
        ctx.layout = torch.channels_last if is_last else torch.contiguous_format
        ctx.shape = x_BCHW.shape
        return x_BCHW.mean(3, keepdim=True).mean(2, keepdim=True)

    @staticmethod
    def backward(ctx: Any, grad_BC11: Tensor) -> Tensor:
        height, width = ctx.shape[2:]
        spread_BCHW = (grad_BC11 / (height * width)).expand(ctx.shape)
        laid_out_BCHW: Tensor = spread_BCHW.contiguous(memory_format=ctx.layout)
        return laid_out_BCHW


def trains_in_eager_mode(*tensors: Tensor) -> bool:
    """Return whether a gradient is to come, and nobody is writing down what is computed."""
    return (
        torch.is_grad_enabled()
        and any(tensor.requires_grad for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not is_tracing()  # type: ignore[no-untyped-call]
    )


def spatial_mean(x_BCHW: Tensor) -> Tensor:
    """Return the ``(B, C, 1, 1)`` mean over width, then height: the published order of summation.

    Its gradient lies in memory as the input does. That of PyTorch's mean is contiguous, and what
    it is added to then costs five times as much.
    """
    if not is_scripting():  # noqa: SIM102 (what compiles scripts looks at this alone)
        if trains_in_eager_mode(x_BCHW):
            mean_BC11: Tensor = _SpatialMean.apply(x_BCHW)
            return mean_BC11
    return x_BCHW.mean(3, keepdim=True).mean(2, keepdim=True)


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
