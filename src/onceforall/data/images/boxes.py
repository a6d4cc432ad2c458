"""Random crop boxes for a batch, all drawn at once.

Shape legend: `B` images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from onceforall.data.images.augmentation import Augmentation
from onceforall.data.images.device_ops import send

_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CropBoxes:
    """One box an image in pixels of the source, and whether it is mirrored.

    Boxes may reach over the border by ``padding`` pixels.

    Attributes:
        top: ``(B,)`` float32, as are ``left``, ``height`` and ``width``.
        flip: ``(B,)`` bool.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor

    def rows(self, part: slice) -> CropBoxes:
        """Return the boxes of a part of the batch."""
        return self._map(lambda values: values[part])

    def to(self, device: torch.device) -> CropBoxes:
        """Return the boxes on ``device``."""
        return self._map(lambda values: send(values, device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> CropBoxes:
        return CropBoxes(
            top=change(self.top),
            left=change(self.left),
            height=change(self.height),
            width=change(self.width),
            flip=change(self.flip),
        )


def draw_boxes(
    num_images: int,
    augmentation: Augmentation,
    *,
    size: tuple[int, int],
    generator: torch.Generator,
) -> CropBoxes:
    """Draw crop boxes and flips for images of one ``size``, given as (height, width) pixels."""
    height, width = size
    h, w = (torch.full((num_images,), float(side)) for side in size)
    if augmentation.crop == "resized":
        top, left, h, w = draw_resized_boxes(h, w, augmentation, generator=generator)
    else:
        shift = (round(augmentation.padding * height), round(augmentation.padding * width))
        if augmentation.crop == "none":
            shift = (0, 0)
        top, left = (
            torch.randint(-s, s + 1, (num_images,), generator=generator).float() for s in shift
        )
    flip = torch.rand(num_images, generator=generator) < 0.5
    if not augmentation.flip:
        flip = torch.zeros_like(flip)
    return CropBoxes(top=top, left=left, height=h, width=w, flip=flip)


def draw_resized_boxes(
    heights: Tensor, widths: Tensor, augmentation: Augmentation, *, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw boxes of random area and shape inside images; return top, left, height, width.

    Ten tries an image are drawn at once and the first that fits counts; where none fits, the
    largest centred box of a legal shape does, as in the published transform.

    Args:
        heights: ``(B,)`` float32 sides of the images, as ``widths``.
        widths: See ``heights``.
        augmentation: Area and shape limits.
        generator: Source of the draw.
    """
    shape = (len(heights), _ATTEMPTS)
    area = (heights * widths)[:, None]
    low = augmentation.min_scale
    target = area * (low + (1 - low) * torch.rand(shape, generator=generator))
    log_ratio = math.log(augmentation.ratio)
    ratio = (log_ratio * (1 - 2 * torch.rand(shape, generator=generator))).exp()
    w = (target * ratio).sqrt().round().clamp(min=1)
    h = (target / ratio).sqrt().round().clamp(min=1)
    fits = (w <= widths[:, None]) & (h <= heights[:, None])
    first = fits.int().argmax(dim=1, keepdim=True)
    any_fits = fits.any(dim=1)
    fallback_w = torch.minimum(widths, (heights / augmentation.ratio).round())
    fallback_h = torch.minimum(heights, (widths / augmentation.ratio).round())
    w = torch.where(any_fits, w.gather(1, first)[:, 0], fallback_w)
    h = torch.where(any_fits, h.gather(1, first)[:, 0], fallback_h)
    place = torch.rand((2, len(heights)), generator=generator)
    top = torch.where(any_fits, (place[0] * (heights - h + 1)).floor(), (heights - h) / 2)
    left = torch.where(any_fits, (place[1] * (widths - w + 1)).floor(), (widths - w) / 2)
    return top, left, h, w
