"""Data sets that come as arrays: ``.npz`` files and what other sources hand over."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onceforall.data.bundle import (
    DataBundle,
    ImageArrays,
    channel_moments,
    fingerprint_arrays,
)
from onceforall.errors import DataError
from onceforall.files import reason_of
from onceforall.reading import named, open_regular

_MAX_HEADER_BYTES = 4096
# Images in memory are bytes of three channels; beyond this a folder of files is read instead.
_MAX_ARRAY_BYTES = 64 * 2**30
# A megabyte of zeros packs into a kilobyte; images pack 20 to 1 at most.
_SUSPECT_BYTES, _MOST_PACKED = 2**28, 200
_MAX_NAME, _MAX_LABEL, _MAX_SIDE_PX = 1000, 10**6, 4096
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What a damaged archive makes of its readers.
DAMAGE = (
    OSError, ValueError, EOFError, RuntimeError, NotImplementedError, SyntaxError, TypeError,
    struct.error, tokenize.TokenError, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip
_KEYS = ("x_train", "y_train", "x_test", "y_test")


def open_npz(path: Path) -> DataBundle:
    """Open a ``.npz`` file with x_train, y_train, x_test and y_test.

    Images are uint8 ``(N, H, W, 3)``, ``(N, H, W, 1)`` or ``(N, H, W)``; labels are integers
    ``(N,)`` or ``(N, 1)`` from 0. An optional ``class_names`` array of strings names the classes.

    Raises:
        DataError: If the file is damaged, or an array is missing or of the wrong kind.
    """
    try:
        with open_regular(named(path)) as file, zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = [key for key in _KEYS if key not in members]
            if missing:
                raise DataError(f"no array {missing[0]}; it has {', '.join(members)}")
            arrays = {key: _array(archive, members[key]) for key in _KEYS}
            names = None
            if "class_names" in members:
                names = _class_names(_array(archive, members["class_names"]))
        return bundle_from_arrays(arrays, name=path.stem, class_names=names)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except DAMAGE as error:
        raise DataError(f"{path}: not a readable .npz file: {reason_of(error)}") from error


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """Return one array of an archive, after a look at its header alone.

    Raises:
        DataError: If its header says another size than the archive.
        ValueError: If it is no array, or one of objects, which would be unpickled.
    """
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = _HEADERS.get(version)
        if read is None:
            raise DataError(f"{name}: version {version} of its header is not known")
        shape, _, dtype = read(file, max_header_size=_MAX_HEADER_BYTES)
    if dtype.hasobject:
        raise DataError(f"{name}: holds Python objects, which are not read")
    expected = math.prod(shape) * dtype.itemsize
    if not 0 <= info.file_size - expected <= _MAX_HEADER_BYTES:
        raise DataError(
            f"{name}: its header says {expected:,} bytes, the archive {info.file_size:,}"
        )
    if info.file_size > _MAX_ARRAY_BYTES:
        raise DataError(
            f"{name} takes {info.file_size:,} bytes, more than {_MAX_ARRAY_BYTES:,}: use a folder"
        )
    if info.file_size > _SUSPECT_BYTES and info.file_size > _MOST_PACKED * info.compress_size:
        raise DataError(
            f"{name}: packed {info.file_size // max(1, info.compress_size)} to 1, "
            "which images are not"
        )
    with archive.open(info) as file:
        array: NDArray[Any] = np.lib.format.read_array(
            file, allow_pickle=False, max_header_size=_MAX_HEADER_BYTES
        )
    return array


def _class_names(array: NDArray[Any]) -> list[str]:
    """Return the names in an array.

    Raises:
        DataError: If they are no names, or not one for each class.
    """
    if array.dtype.kind != "U" or array.ndim != 1:
        raise DataError(f"class_names is {array.dtype} of shape {array.shape}, not a list of texts")
    names: list[str] = array.tolist()
    for name in names:
        if not 0 < len(name) <= _MAX_NAME:
            shown = f"{name[:20]}..." if name else "an empty one"
            raise DataError(f"class_names: {shown} has {len(name)} letters, not 1 to {_MAX_NAME}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"class_names: {twice[0]!r} is there twice")
    return names


def bundle_from_arrays(
    arrays: Mapping[str, NDArray[Any]],
    *,
    name: str,
    class_names: list[str] | None = None,
    flip: bool = True,
) -> DataBundle:
    """Make a data set of four arrays, keyed and shaped as `open_npz` says.

    Args:
        arrays: x_train, y_train, x_test, y_test.
        name: Name of the data set.
        class_names: Names in label order; None names the classes ``"0"``, ``"1"``, ...
        flip: Whether a mirrored image keeps its label.

    Raises:
        DataError: If an array is of the wrong kind.
    """
    train = _images(arrays, "train")
    test = _images(arrays, "test")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"x_test images are {_size(test)} but x_train images are {_size(train)} pixels"
        )
    highest = int(train.labels.max())
    num_classes = highest + 1 if class_names is None else len(class_names)
    if highest >= num_classes:
        raise DataError(f"y_train: label {highest}, but there are {num_classes} class_names")
    present = train.labels.bincount(minlength=num_classes) > 0
    if int(present.sum()) < 2:
        raise DataError(f"y_train has {int(present.sum())} class, at least 2 are needed")
    if class_names is None and not bool(present.all()):
        absent = int((~present).nonzero()[0])
        raise DataError(f"y_train: class {absent} has no images; labels are 0 .. classes - 1")
    for label in sorted(set(test.labels.tolist())):
        if label >= len(present) or not present[label]:
            raise DataError(f"y_test: class {label} is not in y_train")
    names = tuple(class_names or map(str, range(num_classes)))
    mean, std = channel_moments(train.images)
    return DataBundle(
        name=name,
        class_names=names,
        class_titles=names,
        train=train,
        valid=None,
        test=test,
        mean=mean,
        std=std,
        fingerprint=fingerprint_arrays(names, (train, test)),
        flip=flip,
    )


def _images(arrays: Mapping[str, NDArray[Any]], part: str) -> ImageArrays:
    pixels, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
    if pixels.dtype != np.uint8:
        raise DataError(f"x_{part} is {pixels.dtype}, not uint8")
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape:
        raise DataError(
            f"x_{part} has shape {arrays[f'x_{part}'].shape}, not (N, H, W, 3) or (N, H, W)"
        )
    if labels.dtype.kind not in "iu":
        raise DataError(f"y_{part} is {labels.dtype}, not an integer type")
    if labels.shape not in ((len(pixels),), (len(pixels), 1)):
        raise DataError(
            f"y_{part} has shape {labels.shape} for {len(pixels)} images, not ({len(pixels)},)"
        )
    if labels.min() < 0 or labels.max() > _MAX_LABEL:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"y_{part}: label {wrong} is not from 0 to {_MAX_LABEL}")
    if max(pixels.shape[1:3]) > _MAX_SIDE_PX:
        raise DataError(
            f"x_{part}: images of {pixels.shape[1]} x {pixels.shape[2]} pixels; files "
            "in a folder may have more than 4096"
        )
    planar = np.array(  # a copy, as the broadcast view may not be written to
        np.broadcast_to(pixels, (*pixels.shape[:3], 3)).transpose(0, 3, 1, 2), order="C"
    )
    return ImageArrays(
        images=torch.from_numpy(planar),
        labels=torch.from_numpy(labels.reshape(-1).astype(np.int64)),
    )


def _size(images: ImageArrays) -> str:
    height, width = images.images.shape[2:]
    return f"{height} x {width}"
