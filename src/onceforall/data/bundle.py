"""What a data set is once it is open: images, labels, class names and statistics.

Two kinds of image collections exist. `ImageArrays` is decoded and fits in memory; `ImageFiles`
is a list of files that are decoded when they are needed.

Shape legend: `N` images, `H W` spatial.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onceforall.errors import DataError

Rgb = tuple[float, float, float]

IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageArrays:
    """Decoded images of one size.

    Attributes:
        images: ``(N, 3, H, W)`` uint8, RGB.
        labels: ``(N,)`` int64.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
            raise DataError(f"images are {self.images.dtype} {shape}, not uint8 (N, 3, H, W)")
        if shape[0] == 0 or shape[2] == 0 or shape[3] == 0:
            raise DataError(f"images of shape {shape} are empty")
        _check_labels(self.labels, shape[0])

    def __len__(self) -> int:
        return self.images.shape[0]

    def subset(self, indices: Tensor) -> ImageArrays:
        """Return the images at ``indices``, an int64 tensor, in that order."""
        return ImageArrays(images=self.images[indices], labels=self.labels[indices])


class PackedNames:
    """A million file names in two flat arrays.

    Python strings are reference counted, so worker processes that only read a list of them
    still copy its pages one after the other; arrays stay shared.
    """

    __slots__ = ("_ends", "_text")

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        return os.fsdecode(self._text[self._ends[index] : self._ends[index + 1]].tobytes())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageFiles:
    """Image files that are decoded when they are needed.

    Attributes:
        root: Folder that the names are relative to.
        names: Relative names with forward slashes, one an image.
        labels: ``(N,)`` int64.
    """

    root: Path
    names: PackedNames
    labels: Tensor

    def __post_init__(self) -> None:
        if not len(self.names):
            raise DataError(f"{self.root}: no images")
        _check_labels(self.labels, len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Return the whole path of image ``index``."""
        return os.path.join(self.root, self.names[index])

    def subset(self, indices: Tensor) -> ImageFiles:
        """Return the files at ``indices``, an int64 tensor, in that order."""
        names = PackedNames(self.names[i] for i in indices.tolist())
        return ImageFiles(root=self.root, names=names, labels=self.labels[indices])


Images = ImageArrays | ImageFiles


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataBundle:
    """An open data set.

    Attributes:
        name: The specification it was opened with, or the folder's name.
        class_names: One name a class in index order: the folder name where there are folders.
        class_titles: Words for people, one a class; the names where nothing better is known.
        train: Training images, or None where there are only images to evaluate on.
        valid: Validation images where the data set brings its own, otherwise None: then they are
            split off the training images.
        test: Images to report numbers on; never trained on.
        mean: Per-channel mean of the training images in [0, 1].
        std: Per-channel standard deviation of the training images in [0, 1].
        fingerprint: sha256 in hex over labels and image bytes, or file names and sizes.
        flip: Whether a mirrored image keeps its label (False for digits).
        eval_crop_ratio: Side of the centre crop over the resized image that suits evaluation:
            1 for small images that are used whole, 0.875 for photographs.
        skipped: Unreadable files that were left out.
        notes: Lines for people on what was decided or ignored.
    """

    name: str
    class_names: tuple[str, ...]
    class_titles: tuple[str, ...]
    train: Images | None
    valid: Images | None
    test: Images
    mean: Rgb
    std: Rgb
    fingerprint: str
    flip: bool = True
    eval_crop_ratio: float = 1.0
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.class_titles) != self.num_classes:
            raise DataError(f"{len(self.class_titles)} titles for {self.num_classes} classes")
        for images in (self.train, self.valid, self.test):
            if images is not None and int(images.labels.max()) >= self.num_classes:
                raise DataError(
                    f"{self.name}: label {int(images.labels.max())} is not one of "
                    f"0 .. {self.num_classes - 1}"
                )

    @property
    def num_classes(self) -> int:
        """Number of classes, those without images included."""
        return len(self.class_names)

    @property
    def num_train(self) -> int:
        """Number of training images; 0 where there are none."""
        return 0 if self.train is None else len(self.train)

    @property
    def num_test(self) -> int:
        """Number of test images."""
        return len(self.test)

    @property
    def is_resident(self) -> bool:
        """Whether the images are decoded and in memory."""
        return isinstance(self.test, ImageArrays)


def channel_moments(images: Tensor) -> tuple[Rgb, Rgb]:
    """Return the per-channel mean and standard deviation of uint8 images, in [0, 1].

    Counts of the 256 values are exact integers, so the result does not depend on the order of
    summation or the number of threads. A constant channel gets a standard deviation of 1.

    Args:
        images: ``(N, 3, H, W)`` uint8.
    """
    counts = torch.stack([images[:, c].flatten().bincount(minlength=256) for c in range(3)])
    return moments_from_counts(counts)


def moments_from_counts(counts: Tensor) -> tuple[Rgb, Rgb]:
    """Return mean and standard deviation in [0, 1] from ``(3, 256)`` int64 value counts."""
    means, stds = [], []
    for row in counts.tolist():
        total = sum(row)
        first = sum(value * count for value, count in enumerate(row))
        second = sum(value * value * count for value, count in enumerate(row))
        variance = (second * total - first * first) / total**2 / 255**2
        means.append(first / total / 255)
        stds.append(variance**0.5 if variance > 0 else 1.0)
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


def fingerprint_arrays(class_names: Sequence[str], parts: Iterable[ImageArrays | None]) -> str:
    """Return the sha256 over class names, labels and image bytes."""
    digest = hashlib.sha256("\n".join(class_names).encode())
    for part in parts:
        if part is None:
            digest.update(b"none")
            continue
        digest.update(str(tuple(part.images.shape)).encode())
        digest.update(part.labels.numpy().data)
        digest.update(part.images.contiguous().numpy().data)
    return digest.hexdigest()


def _check_labels(labels: Tensor, num_images: int) -> None:
    if labels.dtype != torch.int64 or tuple(labels.shape) != (num_images,):
        raise DataError(
            f"labels are {labels.dtype} {tuple(labels.shape)}, not int64 ({num_images},)"
        )
    if int(labels.min()) < 0:
        raise DataError(f"label {int(labels.min())} is negative")
