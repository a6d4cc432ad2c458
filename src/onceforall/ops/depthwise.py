"""Depthwise convolution with a backward pass that is fast on CPUs.

Training spends more time in the gradients of large depthwise kernels than in all else: oneDNN 3.x
has a fast weight gradient for kernels of up to three columns, and for others one that takes ten to
fifty times the forward pass (bfloat16: up to a hundred times). So the weight gradient of a 5x5 or
7x7 kernel is put together from those of its columns, two or three at a time. With a stride the
bfloat16 gradients have no fast kernel at all, and are taken in float32.

Shape suffixes: B batch, C channels, H/W height/width, K kernel side.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]

from onceforall.ops.functional import trains_in_eager_mode

_FAST_COLUMNS = 3
_DTYPES = (torch.float32, torch.bfloat16)


def depthwise_conv2d(
    x_BCHW: Tensor, weight_C1KK: Tensor, bias_C: Tensor | None = None, *, stride: int = 1
) -> Tensor:
    """Convolve each channel with its own filter, "same" padding.

    Forward it is ``F.conv2d`` to the bit; gradients are those of ``F.conv2d``, summed in another
    order where a CPU with AVX-512 trains in float32 or bfloat16.

    Args:
        x_BCHW: Input.
        weight_C1KK: A filter for each channel; K is odd.
        bias_C: Added to each channel.
        stride: Stride in pixels.
    """
    if x_BCHW.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        x_BCHW = x_BCHW.to(torch.get_autocast_dtype("cpu"))
    if _has_own_gradients(x_BCHW, weight_C1KK, stride):
        y: Tensor = _DepthwiseConv2d.apply(x_BCHW, weight_C1KK, bias_C, stride)
        return y
    side = weight_C1KK.shape[-1]
    return F.conv2d(x_BCHW, weight_C1KK, bias_C, stride, side // 2, groups=weight_C1KK.shape[0])


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with a filter for each channel and "same" padding; see `depthwise_conv2d`.

    Args:
        channels: Channels of input and output.
        kernel_size: Odd kernel side.
        stride: Stride in pixels.
        bias: Whether there is a bias.
    """

    def __init__(
        self, channels: int, kernel_size: int, *, stride: int = 1, bias: bool = False
    ) -> None:
        super().__init__(
            channels, channels, kernel_size, stride, kernel_size // 2, groups=channels, bias=bias
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C, H', W')``."""
        if not is_scripting():  # noqa: SIM102 (what compiles scripts looks at this alone)
            if trains_in_eager_mode(x_BCHW, self.weight):
                return depthwise_conv2d(x_BCHW, self.weight, self.bias, stride=self.stride[0])
        y: Tensor = self._conv_forward(x_BCHW, self.weight, self.bias)
        return y


def _has_own_gradients(x: Tensor, weight: Tensor, stride: int) -> bool:
    if not trains_in_eager_mode(x, weight) or x.device.type != "cpu":
        return False
    is_slow = weight.shape[-1] > _FAST_COLUMNS if stride == 1 else x.dtype == torch.bfloat16
    return bool(is_slow) and x.dtype in _DTYPES and weight.dtype in _DTYPES and _is_known_cpu()


@lru_cache(maxsize=1)
def _is_known_cpu() -> bool:
    """Return whether the kernels are those that the choices here were measured on."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(has_onednn) and "AVX512" in torch.backends.cpu.get_cpu_capability()


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C1KK: Tensor, bias_C: Tensor | None, stride: int
    ) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_C1KK)
        ctx.stride = stride
        ctx.bias_dtype = None if bias_C is None else bias_C.dtype
        dtype, side = x_BCHW.dtype, weight_C1KK.shape[-1]
        weight_C1KK = weight_C1KK.to(dtype)
        bias_C = None if bias_C is None else bias_C.to(dtype)
        return F.conv2d(x_BCHW, weight_C1KK, bias_C, stride, side // 2, groups=len(weight_C1KK))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_bias = grad_BCHW.sum((0, 2, 3)).to(ctx.bias_dtype) if needs_bias else None
        grad_x = grad_weight = None
        if ctx.stride > 1:
            grad_x, grad_weight = _gradients(
                x.float(), weight.float(), grad_BCHW.float(), ctx.stride, (needs_x, needs_weight)
            )
        else:
            if needs_x:
                grad_x, _ = _gradients(x, weight.to(x.dtype), grad_BCHW, 1, (True, False))
            if needs_weight:
                grad_weight = _weight_gradient(x, grad_BCHW, weight.shape[-1])
        return (
            None if grad_x is None else grad_x.to(x.dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            grad_bias,
            None,
        )


def _gradients(
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    stride: int,
    needed: tuple[bool, bool],
    padding: tuple[int, int] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return PyTorch's gradients of the input and of the weight, those that are needed."""
    sides = [side // 2 for side in weight.shape[2:]] if padding is None else list(padding)
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, sides, [1, 1], False, [0, 0], len(weight),
        [*needed, False],
    )  # fmt: skip
    return grad_x, grad_weight


def _weight_gradient(x_BCHW: Tensor, grad_BCHW: Tensor, side: int) -> Tensor:
    """Return the weight gradient of a convolution with stride 1, column by column.

    The middle three columns read the input as it is; those left and right of them read it shifted.
    """
    channels, height, width = x_BCHW.shape[1:]
    if min(height, width) < side:
        # The fast kernels want the filter to fit into the image; zeros around it change nothing.
        zeros = (0, max(0, side - width), 0, max(0, side - height))
        x_BCHW, grad_BCHW = F.pad(x_BCHW, zeros), F.pad(grad_BCHW, zeros)
    half = side // 2
    columns = []
    for first in (*range(-half, -1, _FAST_COLUMNS), -1, *range(2, half + 1, _FAST_COLUMNS)):
        if first == -1:
            count, pad, part = min(side, _FAST_COLUMNS), min(half, 1), x_BCHW
        else:
            end = -1 if first < 0 else half + 1
            count, pad = min(_FAST_COLUMNS, end - first), 0
            part = F.pad(x_BCHW, (-first, first + count - 1))
        shape = x_BCHW.new_empty((channels, 1, side, count))
        found = _gradients(part, shape, grad_BCHW, 1, (False, True), (half, pad))[1]
        assert found is not None
        columns.append(found)
    return torch.cat(columns, dim=3)
