"""Colour changes and normalisation as one linear map per image.

Brightness, contrast, saturation and a turn of the hue are linear in RGB, in any order, and so is
normalisation. Each image gets one 4 x 4 matrix on (R, G, B, 1); the batch is changed in one pass.
Two things differ from the usual chain of image operations: values are clipped once at the end
instead of after each operation, and the hue is turned about the grey axis of YIQ instead of
shifted in HSV.

Shape legend: `B` images, `R` side in pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from onceforall.data.bundle import Rgb
from onceforall.data.images.augmentation import ColorJitter
from onceforall.data.images.device_ops import empty_batch

NUM_COLOR_DRAWS = 8

# Largest relative change of brightness, contrast and saturation, and of the hue in turns.
_STRENGTHS: dict[str, tuple[float, float, float, float]] = {
    "none": (0.0, 0.0, 0.0, 0.0),
    "tf": (32 / 255, 0.0, 0.5, 0.0),
    "torch": (0.4, 0.4, 0.4, 0.1),
}
_GREY = (0.299, 0.587, 0.114)
_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))
_CONTRAST = 1

# Pixels that one row of a matrix product takes together: three or four columns are too few for
# a fast product; 4 to 16 pixels were equally fast on a CPU.
_PIXELS_PER_ROW = 4


def normalize_matrix(mean: Rgb, std: Rgb) -> Tensor:
    """Return the 4 x 4 map from 0 .. 255 to zero mean and unit deviation."""
    deviation = torch.tensor(std, dtype=torch.float64)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.diag(1 / (255 * deviation))
    matrix[:3, 3] = -torch.tensor(mean, dtype=torch.float64) / deviation
    return matrix.float()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Jitter:
    """How strong colour changes are, and the constants they need, on the device of the batches.

    Made once for all batches: on a GPU each constant costs a copy that everything waits for.

    Attributes:
        mode: As in `Augmentation.color`.
        strengths: ``(4,)`` largest changes of brightness, contrast, saturation and hue.
        neutral: ``(4,)`` factors that change nothing.
        grey: ``(4,)`` weights of (R, G, B, 1) in the grey of a pixel.
        to_grey: ``(4, 4)`` map of an image to grey.
        to_yiq: ``(3, 3)`` map of RGB to YIQ.
        from_yiq: ``(3, 3)`` map back.
    """

    mode: ColorJitter
    strengths: Tensor
    neutral: Tensor
    grey: Tensor
    to_grey: Tensor
    to_yiq: Tensor
    from_yiq: Tensor

    @classmethod
    def of(cls, mode: ColorJitter, device: torch.device | str = "cpu") -> Jitter:
        """Return the changes of a mode."""
        to_grey = torch.zeros(4, 4)
        to_grey[:3, :3] = torch.tensor(_GREY)
        to_grey[3, 3] = 1
        to_yiq = torch.tensor(_YIQ, dtype=torch.float64)
        return cls(
            mode=mode,
            strengths=torch.tensor(_STRENGTHS[mode], device=device),
            neutral=torch.tensor([1.0, 1.0, 1.0, 0.0], device=device),
            grey=torch.tensor([*_GREY, 0.0], device=device),
            to_grey=to_grey.to(device),
            to_yiq=to_yiq.to(device, torch.float32),
            from_yiq=torch.linalg.inv(to_yiq).to(device, torch.float32),
        )


def color_matrices(jitter: Jitter, draws: Tensor, means: Tensor) -> Tensor:
    """Return the colour change of each image as a ``(B, 4, 4)`` map of RGB in 0 .. 255.

    Args:
        jitter: How strong the changes are.
        draws: ``(B, 8)`` float32 uniform in [0, 1): four factors and the order of the four
            operations.
        means: ``(B, 3)`` mean RGB in 0 .. 255, which contrast turns about; only used for it.
    """
    eye = torch.eye(4, device=draws.device).repeat(len(draws), 1, 1)
    if jitter.mode == "none":
        return eye
    factors = jitter.neutral + jitter.strengths * (2 * draws[:, :4] - 1)
    fixed = torch.stack(
        [
            _scaling(factors[:, 0]),
            _scaling(factors[:, 1]),
            _saturation(jitter, factors[:, 2]),
            _hue(jitter, factors[:, 3]) if _STRENGTHS[jitter.mode][3] else eye,
        ],
        dim=1,
    )
    order = draws[:, 4:].argsort(dim=1)
    rows = torch.arange(len(draws), device=draws.device)
    total = eye
    now = torch.cat([means, torch.ones_like(means[:, :1])], dim=1)[..., None]
    for slot in order.unbind(dim=1):
        change = fixed[rows, slot]
        shift = (1 - factors[:, 1]) * (now[..., 0] @ jitter.grey)
        change[:, :3, 3] = torch.where(slot == _CONTRAST, shift, 0.0)[:, None]
        total, now = change @ total, change @ now
    return total


def jitter_colors(images: Tensor, jitter: Jitter, draws: Tensor) -> Tensor:
    """Change the colours of ``(B, 3, R, R)`` float32 RGB in 0 .. 255, and clip to that range.

    Args:
        images: RGB images of any layout.
        jitter: How strong the changes are.
        draws: ``(B, 8)`` float32 uniform in [0, 1).
    """
    planes = images.flatten(2)
    maps = color_matrices(jitter, draws, planes.mean(dim=2))
    with torch.autocast(images.device.type, enabled=False):
        changed = torch.baddbmm(maps[:, :3, 3:], maps[:, :3, :3], planes)
    return changed.clamp_(0, 255).view(images.shape)


def map_pixels(
    pixels: Tensor | Sequence[Tensor],
    matrices: Tensor,
    *,
    low: Tensor,
    high: Tensor,
    chunk: int | None = None,
) -> Tensor:
    """Apply one linear map per image to four-byte pixels, and clip.

    Args:
        pixels: ``(B, R, R, 4)`` uint8, or a list of B images ``(R, R, 4)`` on a CPU, whose last
            place is 255 everywhere.
        matrices: ``(B, 4, 4)`` maps of (three channels, 1).
        low: ``(3,)`` smallest value of each channel after the map.
        high: ``(3,)`` largest value of each channel after the map.
        chunk: Images of one tensor that are mapped together; None is what suits the device.

    Returns:
        ``(B, 3, R, R)`` float32, channels_last.
    """
    batch, side, device = len(matrices), pixels[0].shape[0], matrices.device
    group = math.gcd(side * side, _PIXELS_PER_ROW)
    # The last place holds 255 for what is 1 in the map.
    columns = matrices[:, :3].transpose(1, 2).clone()
    columns[:, 3] /= 255
    eye = torch.eye(group, device=device)
    blocks = eye[None, :, None, :, None] * columns[:, None, :, None, :]
    blocks = blocks.reshape(batch, 4 * group, 3 * group)
    low, high = low.repeat(side), high.repeat(side)
    out = empty_batch((batch, side, side, 3), torch.float32, device)
    # One image at a time, and always the same buffer, stay in the cache of a CPU; a GPU takes
    # all images at once.
    chunk = chunk or (1 if device.type == "cpu" else batch)
    buffer = torch.empty((chunk, side * side // group, 4 * group), device=device)
    with torch.autocast(device.type, enabled=False):
        for start in range(0, batch, chunk):
            part = slice(start, start + chunk)
            source, target = pixels[part], out[part]
            rows = buffer[: len(target)]
            rows.copy_((source if isinstance(source, Tensor) else source[0]).view(rows.shape))
            torch.bmm(rows, blocks[part], out=target.view(*rows.shape[:2], 3 * group))
            lines = target.view(-1, 3 * side)
            torch.clamp(lines, min=low, max=high, out=lines)
    return out.permute(0, 3, 1, 2)


def _scaling(factor: Tensor) -> Tensor:
    """Return ``(B, 4, 4)`` maps that multiply colours."""
    diagonal = torch.stack([factor, factor, factor, torch.ones_like(factor)], dim=1)
    return torch.diag_embed(diagonal)


def _saturation(jitter: Jitter, factor: Tensor) -> Tensor:
    """Return ``(B, 4, 4)`` maps between the grey image (0) and the image (1)."""
    eye = torch.eye(4, device=factor.device)
    return factor[:, None, None] * eye + (1 - factor)[:, None, None] * jitter.to_grey


def _hue(jitter: Jitter, turns: Tensor) -> Tensor:
    """Return ``(B, 4, 4)`` maps that turn chroma by a part of a full turn."""
    angle = 2 * math.pi * turns
    turn = torch.zeros(len(turns), 3, 3, device=turns.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2] = angle.sin()
    turn[:, 2, 1] = -angle.sin()
    maps = torch.eye(4, device=turns.device).repeat(len(turns), 1, 1)
    maps[:, :3, :3] = jitter.from_yiq @ turn @ jitter.to_yiq
    return maps
