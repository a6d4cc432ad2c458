"""From a file to the pixels of one crop: four bytes a pixel, resized, uint8 all the way.

Pixels keep the four bytes that Pillow stores, RGB and 255: a row is mirrored, and a batch changed
in one linear map (`color`), fastest in whole words.

Shape legend: `R` output side, `H W` spatial.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

try:
    import simplejpeg
except ImportError:  # an extra: Pillow does the same a little slower
    simplejpeg = None

from onceforall.data.images.augmentation import Augmentation
from onceforall.data.images.decode import (
    DAMAGE,
    ORIENTATION_TAG,
    decode_rgb,
    to_rgb,
    unreadable,
    upright,
)
from onceforall.data.images.jpeg import END_OF_IMAGE, JpegHeader, lower_height, read_header

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the upright image."""

ChooseBox = Callable[[int, int], Box]

NUM_BOX_DRAWS = 2 + 2 * 10
"""A place, and ten tries of an area and a shape."""

_SCALES = (8, 4, 2)
# Cameras and servers append a few bytes after the end of the image.
_TAIL_BYTES = 64


def random_box(width: int, height: int, augmentation: Augmentation, draws: Sequence[float]) -> Box:
    """Draw a box of random area and shape inside an image, as the published transform does.

    Args:
        width: Pixels.
        height: Pixels.
        augmentation: Area and shape limits.
        draws: `NUM_BOX_DRAWS` floats uniform in [0, 1).
    """
    log_ratio = math.log(augmentation.ratio)
    low = augmentation.min_scale
    for attempt in range(2, NUM_BOX_DRAWS, 2):
        target = width * height * (low + (1 - low) * draws[attempt])
        ratio = math.exp(log_ratio * (1 - 2 * draws[attempt + 1]))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draws[0] * (width - w + 1)), int(draws[1] * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height / augmentation.ratio))
    h = min(height, round(width / augmentation.ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def read_crop(path: str, choose_box: ChooseBox, *, resolution: int) -> Tensor:
    """Decode, crop and resize one image; a crop that shrinks a lot is decoded at reduced size.

    Args:
        path: Image file.
        choose_box: Gives the crop for a width and a height.
        resolution: Output side.

    Returns:
        ``(R, R, 4)`` uint8: RGB, and 255 in the last place.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.readall()
        header = read_header(data)
        if header is None or (header.has_exif and _orientation(data) != 1):
            crop = _four_bytes(_crop_any(data, choose_box, resolution))
        else:
            crop = _crop_jpeg(data, header, choose_box, resolution)
    except DAMAGE as error:
        raise unreadable(path, error) from error
    pixels = _resize(crop, resolution)
    pixels[..., 3] = 255
    return pixels


def read_centre(path: str, *, resolution: int, crop_ratio: float) -> NDArray[np.uint8]:
    """Decode one image for evaluation as the published transform does, bit for bit.

    The shorter side is resized to ``ceil(resolution / crop_ratio)`` and the centre is kept.

    Returns:
        ``(R, R, 3)`` uint8 RGB.

    Raises:
        DataError: If the file cannot be read.
    """
    image = decode_rgb(path)
    size, (left, top) = _centre(*image.size, resolution=resolution, crop_ratio=crop_ratio)
    # Resizing only the part that is kept would be cheaper, but Pillow rounds its edges to single
    # precision, and some pixels then differ by one.
    resized = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + resolution, top + resolution)))


def centre_box(width: int, height: int, *, resolution: int, crop_ratio: float) -> Box:
    """Return the part of an image that evaluation shows, in whole pixels."""
    size, start = _centre(width, height, resolution=resolution, crop_ratio=crop_ratio)
    x, y = width / size[0], height / size[1]
    left, right = (round((start[0] + edge) * x) for edge in (0, resolution))
    top, bottom = (round((start[1] + edge) * y) for edge in (0, resolution))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _centre(
    width: int, height: int, *, resolution: int, crop_ratio: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size to resize to and the first column and row to keep."""
    short = math.ceil(resolution / crop_ratio)
    if width <= height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    # Python rounds halves to even, as the published centre crop does.
    return size, (round((size[0] - resolution) / 2), round((size[1] - resolution) / 2))


def _crop_jpeg(data: bytes, header: JpegHeader, choose_box: ChooseBox, resolution: int) -> Tensor:
    """Crop an ordinary upright JPEG file: ``(H, W, 4)`` uint8."""
    box = choose_box(header.width, header.height)
    scale = _scale(box, resolution)
    lower, height = lower_height(data, header, min(header.height, box[3] + 2 * scale))
    size = (-(-header.width // scale), -(-height // scale))
    # Where the crop shrinks, chroma is repeated and not interpolated: about one level of 255.
    plain_chroma = min(box[2] - box[0], box[3] - box[1]) > scale * resolution
    crop = _shrink(box, scale, size)
    if simplejpeg is not None:
        # What follows the rows that are needed counts as damage, unless the file is whole.
        is_whole = height < header.height and END_OF_IMAGE in data[-_TAIL_BYTES:]
        pixels = simplejpeg.decode_jpeg(
            lower,
            "RGBX",
            fastupsample=plain_chroma,
            min_width=size[0] if scale > 1 else 0,
            min_height=size[1] if scale > 1 else 0,
            strict=not is_whole,
        )
        left, top, right, bottom = crop
        return torch.from_numpy(pixels)[top:bottom, left:right]
    # The header is known: this is the decoder of Image.open without its Python.
    image = Image.frombytes("RGB", size, lower, "jpeg", "RGB", "", scale, int(plain_chroma))
    return _four_bytes(image.crop(crop))


def _crop_any(data: bytes, choose_box: ChooseBox, resolution: int) -> Image.Image:
    """Crop any image file, in RGB."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        is_turned = image.getexif().get(ORIENTATION_TAG, 1) >= 5
        box = choose_box(*((height, width) if is_turned else (width, height)))
        scale = _scale(box, resolution) if image.format in ("JPEG", "MPO") else 1
        if scale > 1:
            image.draft(None, (width // scale, height // scale))
        pixels = upright(to_rgb(image), image)
    return pixels.crop(_shrink(box, scale, pixels.size))


def _orientation(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return int(image.getexif().get(ORIENTATION_TAG, 1))


def _scale(box: Box, resolution: int) -> int:
    """Return the largest reduction of a JPEG that leaves the crop at least ``resolution``."""
    side = min(box[2] - box[0], box[3] - box[1])
    return next((scale for scale in _SCALES if side >= scale * resolution), 1)


def _shrink(box: Box, scale: int, size: tuple[int, int]) -> Box:
    """Return the box in an image reduced by ``scale``, to the nearest pixel, never empty."""
    left, top, right, bottom = (round(edge / scale) for edge in box)
    return left, top, min(size[0], max(right, left + 1)), min(size[1], max(bottom, top + 1))


def _four_bytes(image: Image.Image) -> Tensor:
    """Return ``(H, W, 4)`` uint8; the last place is whatever Pillow keeps there."""
    # The copy makes the buffer writable, which torch insists on.
    buffer = bytearray(image.tobytes("raw", "RGBX"))
    return torch.frombuffer(buffer, dtype=torch.uint8).view(image.height, image.width, 4)


def _resize(pixels: Tensor, resolution: int) -> Tensor:
    if pixels.shape[:2] == (resolution, resolution):
        return pixels.contiguous()
    # A channels_last view, strides included, stays in the vectorised kernel to the end.
    planes = pixels[None].permute(0, 3, 1, 2)
    resized = F.interpolate(planes, (resolution, resolution), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1)[0]
