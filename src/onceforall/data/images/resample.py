"""Crop, pad, mirror and resize a whole batch with two batched matrix products.

Resizing with an antialiased triangle filter is linear and separable: ``out = Y @ image @ X^T``
with one small matrix per image and axis. Where the box lies, how large it is and whether it is
mirrored only changes those matrices, and so does what lies outside the image: a zero border drops
the columns out there, a mirrored border folds them back. A batch of boxes is therefore two matrix
products without a loop over images, on any device.

Shape legend: `B` images, `H W` source, `R` output side, `S` source side of one axis, `P` padding.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from onceforall.data.images.boxes import CropBoxes


def resample(
    images: Tensor,
    boxes: CropBoxes,
    *,
    resolution: int,
    padding: int = 0,
    padding_mode: Literal["zero", "reflect"] = "zero",
) -> Tensor:
    """Return the boxes of ``images``, resized to ``resolution`` pixels square.

    Args:
        images: ``(B, 3, H, W)`` uint8 or float32.
        boxes: One box an image, on the device of ``images``.
        resolution: Output side.
        padding: How far boxes may reach over the border, in source pixels.
        padding_mode: What is out there; ``"reflect"`` needs ``padding`` below the side.

    Returns:
        ``(B, 3, R, R)`` float32 in the range of the input; a view, not contiguous.
    """
    num_images, channels, height, width = images.shape
    # Images must not become bfloat16 because a caller trains under autocast.
    with torch.autocast(images.device.type, enabled=False):
        rows_BRH = axis_weights(
            boxes.top, boxes.height, size_in=height, size_out=resolution, padding=padding
        )
        columns_BRW = axis_weights(
            boxes.left, boxes.width, size_in=width, size_out=resolution, padding=padding
        )
        columns_BRW = torch.where(boxes.flip[:, None, None], columns_BRW.flip(1), columns_BRW)
        rows_BRH = _fold(rows_BRH, height, padding, padding_mode)
        columns_BRW = _fold(columns_BRW, width, padding, padding_mode)
        # One copy brings uint8 planes to float rows; after it no product needs another.
        rows = images.new_empty((num_images, height, channels, width), dtype=torch.float32)
        rows.copy_(images.transpose(1, 2))
        short = torch.bmm(rows_BRH, rows.view(num_images, height, channels * width))
        short = short.view(num_images, resolution * channels, width)
        small = torch.bmm(short, columns_BRW.transpose(1, 2))
    return small.view(num_images, resolution, channels, resolution).transpose(1, 2)


def axis_weights(
    start: Tensor, length: Tensor, *, size_in: int, size_out: int, padding: int = 0
) -> Tensor:
    """Return the filter matrices of one axis, rows summing to 1.

    The filter is the triangle of bilinear interpolation, widened by the scale where the image
    shrinks. What lies outside the padded image has no weight.

    Args:
        start: ``(B,)`` float32, first edge of the box in source pixels.
        length: ``(B,)`` float32, extent of the box.
        size_in: Source side `S`.
        size_out: Output side `R`.
        padding: Pixels `P` added on both sides.

    Returns:
        ``(B, R, S + 2 P)`` float32.
    """
    device = start.device
    scale = (length / size_out)[:, None]
    centres = start[:, None] + (torch.arange(size_out, device=device) + 0.5) * scale
    pixels = torch.arange(-padding, size_in + padding, device=device) + 0.5
    reach = scale.clamp(min=1)[:, :, None]
    weights = (1 - (pixels - centres[:, :, None]).abs() / reach).clamp(min=0)
    return weights / weights.sum(dim=2, keepdim=True)


def _fold(weights: Tensor, size: int, padding: int, mode: str) -> Tensor:
    """Bring the columns of the border back: drop them, or add them where they mirror."""
    if padding == 0:
        return weights
    if mode == "zero":
        return weights[:, :, padding : padding + size]
    # Slices instead of an indexed sum: that adds in no fixed order on a GPU.
    folded = weights[:, :, padding : padding + size].clone()
    folded[:, :, 1 : padding + 1] += weights[:, :, :padding].flip(2)
    folded[:, :, size - 1 - padding : size - 1] += weights[:, :, padding + size :].flip(2)
    return folded
