"""Data sets that come as arrays: ``.npz`` files and what other sources hand over."""

from __future__ import annotations

import zipfile
import zlib
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

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def open_npz(path: Path) -> DataBundle:
    """Open a ``.npz`` file with x_train, y_train, x_test and y_test.

    Images are uint8 ``(N, H, W, 3)``, ``(N, H, W, 1)`` or ``(N, H, W)``; labels are integers
    ``(N,)`` or ``(N, 1)`` from 0. An optional ``class_names`` array of strings names the classes.

    Raises:
        DataError: If the file is damaged, or an array is missing or of the wrong kind.
    """
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not a readable .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in _KEYS if key not in file]
            if missing:
                raise DataError(f"{path}: no array {missing[0]}; it has {', '.join(file.files)}")
            arrays = {key: file[key] for key in _KEYS}
            names = file["class_names"].tolist() if "class_names" in file else None
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable .npz file: {error}") from error
    try:
        return bundle_from_arrays(arrays, name=path.stem, class_names=names)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


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
    num_classes = int(train.labels.max()) + 1 if class_names is None else len(class_names)
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
    if labels.min() < 0:
        raise DataError(f"y_{part}: label {labels.min()} is negative")
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
