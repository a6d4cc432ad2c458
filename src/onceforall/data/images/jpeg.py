"""Decode no more of a JPEG file than a crop needs.

Entropy decoding is most of the cost of a JPEG and runs from the top down, so rows below the crop
need not be decoded at all. libjpeg offers that, Pillow does not; but a decoder that is told that
the picture is lower stops after those rows and skips what is left. So the height in the frame
header is lowered. The rows that remain are the same bit for bit (`lower_height` keeps the
neighbours that chroma interpolation looks at).

This holds for baseline and extended sequential files with one interleaved scan: progressive
files need every scan for every row. `read_header` returns None for all that is out of the
ordinary; such files are decoded whole.

Source: ITU-T T.81, annex B (markers and frame header).
"""

from __future__ import annotations

import dataclasses

END_OF_IMAGE = b"\xff\xd9"
_START = b"\xff\xd8"
_MCU_ROWS = 16
_NEIGHBOUR_ROWS = 2

_SOF_SEQUENTIAL = (0xC0, 0xC1)
_SOF_OTHER = (0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_EOI, _SOS, _APP1, _APP2, _APP14 = 0xD9, 0xDA, 0xE1, 0xE2, 0xEE
_RGB_COMPONENTS = (ord("R"), ord("G"), ord("B"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JpegHeader:
    """The frame of a one-scan sequential YCbCr file.

    Attributes:
        width: Pixels, before EXIF orientation.
        height: Pixels, before EXIF orientation.
        height_at: Place of the height in the file, two bytes.
        has_exif: Whether there is EXIF data, which may turn the image.
    """

    width: int
    height: int
    height_at: int
    has_exif: bool


def read_header(data: bytes) -> JpegHeader | None:
    """Return the frame of an ordinary JPEG file, None for any other file."""
    if not data.startswith(_START):
        return None
    place = 2
    has_exif = False
    frame: tuple[int, int, int] | None = None
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        body, end = place + 4, place + 2 + int.from_bytes(data[place + 2 : place + 4])
        if marker in _SOF_SEQUENTIAL:
            frame = _frame(data, body)
            if frame is None:
                return None
        elif marker == _SOS:
            # Three components in the first scan: no further scan follows.
            if frame is None or data[body : body + 1] != b"\x03":
                return None
            width, height, height_at = frame
            return JpegHeader(width=width, height=height, height_at=height_at, has_exif=has_exif)
        elif marker == _APP1 and data.startswith(b"Exif", body):
            has_exif = True
        elif marker in _SOF_OTHER or marker == _EOI or _is_special(data, marker, body):
            return None
        place = end
    return None


def lower_height(data: bytes, header: JpegHeader, rows: int) -> tuple[bytes | bytearray, int]:
    """Return a file whose first ``rows`` rows decode as before, and its height: few rows more.

    Args:
        data: The file.
        header: Its frame.
        rows: Rows that are needed, 1 .. height.
    """
    # 16 rows are whole units with any usual sampling of chroma.
    height = -(-(rows + _NEIGHBOUR_ROWS) // _MCU_ROWS) * _MCU_ROWS
    if height >= header.height:
        return data, header.height
    lower = bytearray(data)
    lower[header.height_at : header.height_at + 2] = height.to_bytes(2)
    return lower, height


def _frame(data: bytes, body: int) -> tuple[int, int, int] | None:
    """Return (width, height, place of height) of an 8-bit YCbCr frame header."""
    if len(data) < body + 15 or data[body] != 8 or data[body + 5] != 3:
        return None
    height = int.from_bytes(data[body + 1 : body + 3])
    width = int.from_bytes(data[body + 3 : body + 5])
    components = tuple(data[body + 6 + 3 * i] for i in range(3))
    sampling = [data[body + 7 + 3 * i] & 0x0F for i in range(3)]
    if components == _RGB_COMPONENTS or max(sampling) > 2 or not height or not width:
        return None
    return width, height, body + 1


def _is_special(data: bytes, marker: int, body: int) -> bool:
    """Whether the segment says that there are more pictures or another colour space."""
    if marker == _APP2:
        return data.startswith(b"MPF\x00", body)
    # The byte after "Adobe", version and two flag words: 1 means YCbCr.
    return marker == _APP14 and data.startswith(b"Adobe", body) and data[body + 11] != 1
