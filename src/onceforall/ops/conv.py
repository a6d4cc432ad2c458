"""Elastic convolutions.

Shape suffixes: B batch, C channels, O output channels, H/W height/width, K kernel side,
P = K * K, Q = P of the largest kernel.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onceforall.ops.depthwise import depthwise_conv2d
from onceforall.ops.functional import center_crop, leading_block


class ElasticConv2d(nn.Module):
    """Convolution whose input and output channels are chosen per call.

    The first channels of the weight are used: the input's width says how many inputs, the
    argument how many outputs.

    Args:
        max_in_channels: Largest number of input channels.
        max_out_channels: Largest number of output channels.
        kernel_size: Odd kernel side.
        stride: Stride in pixels.
        bias: Whether there is a bias.
    """

    def __init__(
        self,
        max_in_channels: int,
        max_out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(
            torch.empty(max_out_channels, max_in_channels, kernel_size, kernel_size)
        )
        self.bias = nn.Parameter(torch.zeros(max_out_channels)) if bias else None
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor, out_channels: int) -> Tensor:
        """Convolve ``(B, C, H, W)`` to ``(B, out_channels, H', W')`` with "same" padding."""
        weight = leading_block(self.weight, out_channels, x_BCHW.shape[1])
        bias = None if self.bias is None else self.bias[:out_channels]
        return F.conv2d(x_BCHW, weight, bias, stride=self.stride, padding=self.padding)

    @torch.no_grad()
    def copy_to(self, plain: nn.Conv2d) -> None:
        """Copy the weights of one subnet into a plain convolution of its shape."""
        plain.weight.copy_(self.weight[: plain.out_channels, : plain.in_channels])
        if self.bias is not None and plain.bias is not None:
            plain.bias.copy_(self.bias[: plain.out_channels])


class ElasticDepthwiseConv2d(nn.Module):
    """Depthwise convolution whose channels and kernel size are chosen per call.

    The weight of a smaller kernel is the centre of the next larger one, times a learned matrix
    shared by all channels (the *kernel transform*).

    Args:
        max_channels: Largest number of channels.
        kernel_sizes: Odd kernel sides on offer, any order, e.g. ``(3, 5, 7)``.
        stride: Stride in pixels.

    Raises:
        ValueError: If ``kernel_sizes`` is empty, repeats, or holds an even number.

    Source: Cai et al., *Once-for-All*, ICLR 2020, section 3.3, "Elastic kernel size".
    """

    def __init__(
        self, max_channels: int, kernel_sizes: tuple[int, ...], *, stride: int = 1
    ) -> None:
        super().__init__()
        sizes = tuple(sorted(set(kernel_sizes), reverse=True))
        if len(sizes) != len(kernel_sizes) or not sizes or any(k % 2 == 0 for k in sizes):
            raise ValueError(f"kernel_sizes must be distinct odd numbers, got {kernel_sizes!r}")
        self.kernel_sizes = sizes
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(max_channels, 1, sizes[0], sizes[0]))
        self.steps = tuple(f"{big}to{small}" for big, small in itertools.pairwise(sizes))
        self.transforms = nn.ParameterDict(
            {step: torch.eye(small**2) for step, small in zip(self.steps, sizes[1:], strict=True)}
        )
        for step, big, small in zip(self.steps, sizes, sizes[1:], strict=False):
            pixels = torch.eye(big**2).view(-1, big, big)
            crop = center_crop(pixels, small).flatten(start_dim=1).T.contiguous()
            self.register_buffer(f"crop{step}", crop, persistent=False)
        # A depthwise filter sees one channel: its fan is the window, whatever the width.
        nn.init.normal_(self.weight, std=(2.0 / sizes[0] ** 2) ** 0.5)

    def active_weight(self, channels: int, kernel_size: int) -> Tensor:
        """Return the ``(channels, 1, kernel_size, kernel_size)`` filter of one subnet.

        It has the precision of the parameters, under autocast too: a transform is near the
        identity, and its small departures would be lost in bfloat16.

        Raises:
            ValueError: If ``kernel_size`` is not on offer.
        """
        if kernel_size not in self.kernel_sizes:
            raise ValueError(f"kernel_size {kernel_size} is not one of {self.kernel_sizes}")
        device = self.weight.device.type
        if not torch.is_autocast_enabled(device):
            return self._transformed(channels, kernel_size)
        with torch.autocast(device, enabled=False):
            return self._transformed(channels, kernel_size)

    def _transformed(self, channels: int, kernel_size: int) -> Tensor:
        weight = self.weight
        if channels != len(weight):
            weight = weight[:channels]  # type: ignore[assignment]
        matrix_PQ: Tensor | None = None
        transforms = self.transforms
        for small, step in zip(self.kernel_sizes[1:], self.steps, strict=True):
            if small < kernel_size:
                break
            crop: Tensor = getattr(self, f"crop{step}")
            # Crops as matrices: the small factors are multiplied first, and one product with the
            # filters is left; copying cropped filters takes longer than everything else here.
            matrix_PQ = transforms[step] @ (crop if matrix_PQ is None else crop @ matrix_PQ)
        if matrix_PQ is None:
            return weight
        flat_CP = F.linear(weight.flatten(start_dim=1), matrix_PQ)
        return flat_CP.view(-1, 1, kernel_size, kernel_size)

    def forward(
        self, x_BCHW: Tensor, kernel_size: int, weight_C1KK: Tensor | None = None
    ) -> Tensor:
        """Convolve ``(B, C, H, W)`` with "same" padding; C is the subnet's width.

        Args:
            x_BCHW: Input.
            kernel_size: Kernel side.
            weight_C1KK: What :meth:`active_weight` returns for them, where it is at hand already.
        """
        channels = x_BCHW.shape[1]
        if weight_C1KK is None:
            weight_C1KK = self.active_weight(channels, kernel_size)
        return depthwise_conv2d(x_BCHW, weight_C1KK, stride=self.stride)

    @torch.no_grad()
    def copy_to(self, plain: nn.Conv2d) -> None:
        """Copy the filter of one subnet into a plain depthwise convolution of its shape."""
        plain.weight.copy_(self.active_weight(plain.out_channels, plain.kernel_size[0]))
