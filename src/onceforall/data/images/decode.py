"""Image files to RGB, with one rule for every kind of file.

- Greyscale, palette, CMYK and the like become RGB; what is transparent shows white.
- 16-bit greyscale keeps its upper eight bits.
- EXIF orientation is applied: a photograph of a telephone stands upright, as viewers show it.
- Of an animation the first frame counts.
- Floating-point images have no agreed range and are refused.
"""

from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
from PIL import Image

from onceforall.errors import DataError

ORIENTATION_TAG = 0x0112
# ImageOps.exif_transpose would write the EXIF data anew, and fails on what some cameras wrote.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow has no common error: damage shows up as any of these, depending on the format.
DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_SUFFIXES = "bmp gif jfif jpe jpeg jpg jp2 pbm pgm png pnm ppm tga tif tiff webp"
IMAGE_SUFFIXES = frozenset("." + suffix for suffix in re.findall(r"\w+", _SUFFIXES))


_MOST_CONVERTED = 64_000_000


def decode_rgb(path: str, *, min_side: int | None = None) -> Image.Image:
    """Return the image in ``path`` as a loaded 8-bit RGB image.

    Args:
        path: Image file.
        min_side: Shorter side that is enough: a JPEG may be decoded at a half, a quarter or an
            eighth of its size, which is several times faster. None gives every pixel.

    Raises:
        DataError: If the file cannot be read, with the path and the cause on one line.
    """
    try:
        with open(path, "rb") as file, Image.open(io.BytesIO(file.read())) as image:
            if min_side is not None and image.format in ("JPEG", "MPO"):
                reduction = max(1, min(image.size) // min_side)
                image.draft(None, (image.width // reduction, image.height // reduction))
            return upright(to_rgb(image), image)
    except DAMAGE as error:
        raise unreadable(path, error) from error


def decode_square(path: str, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return ``(size, size, 3)`` uint8: shorter side resized to ``size``, centre cropped.

    Raises:
        DataError: If the file cannot be read.
    """
    # At twice the size a reduced JPEG no longer differs visibly from the whole one.
    image = decode_rgb(path, min_side=2 * size)
    if image.size == (size, size):
        return np.asarray(image)
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    square = image.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.asarray(square)


def image_size(path: str) -> tuple[int, int]:
    """Return (width, height) from the file's header, before EXIF orientation.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except DAMAGE as error:
        raise unreadable(path, error) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return ``image`` in mode RGB, loaded.

    Raises:
        ValueError: If it holds floating-point values.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode == "F":
        raise ValueError("floating-point images are not supported")
    if image.width * image.height > _MOST_CONVERTED:  # a conversion holds several copies
        raise ValueError(
            f"{image.width} x {image.height} pixels of mode {image.mode}, more than "
            f"{_MOST_CONVERTED:,}"
        )
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return image.convert("RGB")


def upright(pixels: Image.Image, source: Image.Image) -> Image.Image:
    """Return ``pixels`` turned and mirrored as the EXIF data of ``source`` says."""
    turn = _TURNS.get(source.getexif().get(ORIENTATION_TAG, 1))
    return pixels if turn is None else pixels.transpose(turn)


def unreadable(path: str, error: BaseException) -> DataError:
    """Return the error for a damaged file: path and cause on one line."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: no such file")
    cause = " ".join(str(error).split()) or type(error).__name__
    cause = re.sub("<_io.BytesIO object at [^>]*>", "the file", cause.replace(path, "the file"))
    return DataError(f"{path}: cannot be read as an image: {cause}")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Keep the upper eight bits; 32-bit containers of 8-bit values stay as they are."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"greyscale values up to {values.max()} are not in 0 .. 65535")
    wide = image.mode.startswith("I;16") or values.max() > 0xFF
    return Image.fromarray((values >> 8 if wide else values).astype(np.uint8)).convert("RGB")
