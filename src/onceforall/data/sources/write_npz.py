"""A data set of one's own in memory, written as the ``.npz`` file that a run can open again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from onceforall.data.sources.arrays import DAMAGE, bundle_from_arrays
from onceforall.data.sources.folder import split_test
from onceforall.errors import DataError
from onceforall.files import atomic_writer, reason_of

Arrays = tuple[NDArray[Any], NDArray[Any]]


class ImageDataset(Sized, Protocol):
    """Images with labels, by index: a ``torch.utils.data.Dataset``."""

    def __getitem__(self, index: int, /) -> tuple[Any, Any]:
        """Return an image (PIL, or a tensor ``(3, H, W)``) and its label."""
        ...


Own = ImageDataset | tuple[Any, Any]


def write_own(data: Own, path: Path) -> None:
    """Write a data set as an ``.npz`` file, atomically.

    Args:
        data: Images and labels, either a data set, or two arrays: uint8 ``(N, H, W, 3)`` or
            ``(N, H, W)``, and integers ``(N,)``. Or a pair of either: to train on, and to test on.
            Without the latter a stratified fifth is held out.
        path: File to write.

    Raises:
        DataError: If images are of several sizes, or arrays are of the wrong kind.
    """
    arrays = _by_name(data)
    names = getattr(data[0] if isinstance(data, tuple) else data, "classes", None)
    classes = None if names is None else [str(name) for name in names]
    bundle_from_arrays(arrays, name=path.stem, class_names=classes)  # else it is not written
    if classes is not None:
        arrays["class_names"] = np.array(classes)
    with atomic_writer(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def check_own(data: Own, path: Path, *, is_begun: bool) -> None:
    """Check that a file that is there holds these images: it is never written over.

    Args:
        data: As for :func:`write_own`.
        path: The file.
        is_begun: Whether a run uses it already: a data set is not read again then. Otherwise its
            labels are compared, and the number and size of its images: it may draw them anew.

    Raises:
        DataError: If it holds others, or is damaged.
    """
    is_fixed = isinstance(data, tuple) and _is_array(_first(data))
    if is_begun and not is_fixed:
        return
    arrays = _by_name(data)

    def is_same(name: str, own: NDArray[Any], saved: NDArray[Any]) -> bool:
        if name.startswith("x_") and not is_fixed:
            return own.shape == saved.shape
        return np.array_equal(own, saved)

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            differ = [name for name in arrays if not is_same(name, arrays[name], saved[name])]
    except (*DAMAGE, KeyError) as error:
        raise DataError(f"{path} is there and holds something else: {reason_of(error)}") from error
    if differ:
        raise DataError(
            f"{path} is there with another {differ[0]}: use another folder for other data"
        )


def _first(data: tuple[Any, Any]) -> Any:
    """Return the first thing of a pair of arrays, or of a pair of such pairs."""
    return data[0][0] if isinstance(data[0], tuple) else data[0]


def _by_name(data: Own) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file; without a test part, a stratified fifth is held out."""
    train, test = _parts(data)
    if train[1].size and train[1].min() < 0:
        raise DataError(f"y_train: label {train[1].min()} is below 0")
    if test is None:
        kept, held_out = split_test(torch.from_numpy(train[1].astype(np.int64)))
        train, test = _rows(train, kept), _rows(train, held_out)
    return {"x_train": train[0], "y_train": train[1], "x_test": test[0], "y_test": test[1]}


def _parts(data: Own) -> tuple[Arrays, Arrays | None]:
    if not isinstance(data, tuple):
        return _arrays(data), None
    if len(data) != 2:
        raise DataError(f"a data set is one of images and labels, or two, not {len(data)} things")
    if _is_array(data[0]):
        return _arrays(data), None
    return _arrays(data[0]), _arrays(data[1])


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray | torch.Tensor)


def _arrays(data: Any) -> Arrays:
    """Return images ``(N, H, W, 3)`` uint8 and labels ``(N,)``."""
    if isinstance(data, tuple):
        images, labels = (np.asarray(part) for part in data)
        if len(images) != labels.size:
            raise DataError(f"there are {len(images)} images and {labels.size} labels")
        return images, labels.reshape(-1)
    pairs: Iterable[tuple[Any, Any]] = (data[i] for i in range(len(data)))
    found = [(_pixels(image), int(label)) for image, label in pairs]
    sizes: Sequence[tuple[int, ...]] = sorted({image.shape for image, _ in found})
    if len(sizes) != 1:
        shown = " and ".join(f"{size[1]} x {size[0]}" for size in sizes[:2])
        raise DataError(
            f"images of several sizes, {shown or 'or none'}: resize them, or give a folder"
        )
    return np.stack([image for image, _ in found]), np.array([label for _, label in found])


def _pixels(image: Any) -> NDArray[np.uint8]:
    """Return one image as uint8 ``(H, W, 3)``."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1:
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise DataError(
            f"an image is {pixels.dtype} of shape {pixels.shape}; uint8, or 0 to 1 without "
            "normalisation, is needed"
        )
    return np.broadcast_to(
        pixels if pixels.ndim == 3 else pixels[..., None], (*pixels.shape[:2], 3)
    )


def _rows(arrays: Arrays, index: torch.Tensor) -> Arrays:
    return arrays[0][index.numpy()], arrays[1][index.numpy()]
