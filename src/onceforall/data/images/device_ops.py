"""Bringing a batch to the device, and operations on it there: normalisation and cutout.

Shape legend: `B` images, `R` side.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from onceforall.data.bundle import Rgb


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return ``values`` on the device, without waiting for what a GPU still has to do.

    A plain copy from pageable memory waits until everything queued before it is done, once for
    each tensor; one from pinned memory only joins the queue.
    """
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return pinned(values).to(device, non_blocking=True)


def pinned(values: Tensor) -> Tensor:
    """Return ``values`` in host memory that a GPU can read by itself."""
    return values if values.is_pinned() else values.pin_memory()


def empty_batch(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return uninitialised memory for a batch.

    On a CPU it comes from NumPy, which asks the system for huge pages: touching a fresh batch in
    pages of 4 KiB costs more than the arithmetic on it.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    kind = {torch.float32: np.float32, torch.uint8: np.uint8}[dtype]
    return torch.from_numpy(np.empty(shape, dtype=kind))


def normalize(images: Tensor, *, mean: Rgb, std: Rgb) -> Tensor:
    """Bring images of 0 .. 255 to zero mean and unit deviation.

    Args:
        images: ``(B, 3, R, R)`` uint8 or float32, of any layout.
        mean: Per channel, of images in [0, 1].
        std: Per channel, of images in [0, 1].

    Returns:
        ``(B, 3, R, R)`` float32, channels_last.
    """
    return scale_and_shift(images, *normalization(mean, std, images.device))


def normalization(mean: Rgb, std: Rgb, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the factors and the terms of `normalize`, float32 ``(1, 3, 1, 1)``.

    Made once for all batches: on a GPU each costs a copy that everything waits for.
    """
    scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
    shift = -255 * scale * torch.tensor(mean, dtype=torch.float64)
    scale, shift = (
        values.to(device=device, dtype=torch.float32).view(1, 3, 1, 1) for values in (scale, shift)
    )
    return scale, shift


def scale_and_shift(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return ``scale * images + shift`` for images ``(B, 3, R, R)``: float32, channels_last."""
    # Conversion, layout and arithmetic in one pass over the batch.
    batch, channels, height, width = images.shape
    out = empty_batch((batch, height, width, channels), torch.float32, images.device)
    return torch.addcmul(shift, images, scale, out=out.permute(0, 3, 1, 2))


def cutout_(images: Tensor, centres: Tensor, *, side: float) -> Tensor:
    """Set one square an image to 0, in place: the mean colour of normalised images.

    Args:
        images: ``(B, 3, R, R)``.
        centres: ``(B, 2)`` float32 in [0, 1], row and column as fractions of the side. Squares
            that reach over the border are cut off there.
        side: Side of the square as a fraction of the image's.
    """
    resolution = images.shape[-1]
    places = (torch.arange(resolution, device=images.device) + 0.5) / resolution
    inside = (places - centres[:, :, None]).abs() < side / 2
    square = inside[:, 0, :, None] & inside[:, 1, None, :]
    return images.masked_fill_(square[:, None], 0.0)
