"""Photographs stand upright, whatever else their EXIF data say."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from onceforall.data.images.decode import decode_rgb, decode_square, image_size
from onceforall.errors import DataError
from tests.data.pictures import noise

ORIENTATION = 0x0112


def saved(path: Path, *, orientation: int, size: tuple[int, int] = (24, 40)) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(noise(orientation, *size)).save(path, quality=95, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_viewers_do(tmp_path: Path, orientation: int) -> None:
    path = saved(tmp_path / "a.jpg", orientation=orientation)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert (np.asarray(decode_rgb(str(path))) == expected).all()
    assert image_size(str(path)) == (40, 24), "as stored"


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path: Path, orientation: int) -> None:
    path = saved(tmp_path / "a.jpg", orientation=orientation)
    assert decode_rgb(str(path)).size == (40, 24)


def with_exif(data: bytes, tag: int, kind: int, payload: bytes) -> bytes:
    """Return a JPEG file whose EXIF data hold orientation 6 and one more field."""
    fields = [(ORIENTATION, 3, struct.pack("<H", 6)), (tag, kind, payload)]
    outside = 8 + 2 + 12 * len(fields) + 4
    directory = struct.pack("<H", len(fields))
    for number, form, content in fields:
        directory += struct.pack("<HHI", number, form, 1)
        is_inside = len(content) <= 4
        directory += content.ljust(4, b"\0") if is_inside else struct.pack("<I", outside)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + b"\0\0\0\0"
    exif += payload if len(payload) > 4 else b""
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


@pytest.mark.parametrize(
    "field",
    [(0x011A, 1, b"a"), (0x0103, 8, struct.pack("<h", -5)), (0x0102, 12, struct.pack("<d", 0.5))],
    ids=["a byte for a ratio", "a negative count", "a fraction for a count"],
)
def test_fields_that_are_wrong_do_not_matter(tmp_path: Path, field: tuple[int, int, bytes]) -> None:
    """Pillow's own turning writes the fields anew, and fails on these."""
    plain = io.BytesIO()
    Image.fromarray(noise(0, 24, 40)).save(plain, "JPEG")
    (tmp_path / "a.jpg").write_bytes(with_exif(plain.getvalue(), *field))
    assert decode_rgb(str(tmp_path / "a.jpg")).size == (24, 40)


def test_a_square_is_the_middle_of_the_picture(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = (200, 100, 50)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    square = decode_square(str(tmp_path / "a.png"), 10)
    # The filter reaches one pixel beyond the edge of the crop.
    assert square.shape == (10, 10, 3) and (square[:, 1:-1] == (200, 100, 50)).all()
    Image.fromarray(pixels[:10, 20:30]).save(tmp_path / "b.png")
    assert (decode_square(str(tmp_path / "b.png"), 10) == (200, 100, 50)).all()


def test_a_reduced_picture_has_the_side_that_is_enough(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", orientation=1, size=(256, 320))
    assert decode_rgb(str(path), min_side=64).size == (80, 64)
    assert decode_rgb(str(path), min_side=100).size == (160, 128)
    assert decode_rgb(str(path), min_side=256).size == (320, 256)


@pytest.mark.parametrize("read", [decode_rgb, image_size])
def test_what_is_no_picture_is_named_on_one_line(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a.jpg").write_bytes(b"no\npicture")
    with pytest.raises(DataError, match=r"a\.jpg: cannot be read as an image: ") as caught:
        read(str(tmp_path / "a.jpg"))
    assert "\n" not in str(caught.value)
