"""A folder of class folders as a data set: decoded into memory when small, listed when large."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from onceforall.data.bundle import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DataBundle,
    ImageArrays,
    ImageFiles,
    Images,
    Rgb,
    channel_moments,
    moments_from_counts,
)
from onceforall.data.images.decode import decode_rgb, decode_square, image_size
from onceforall.data.seeding import private_generator
from onceforall.data.sources.listing import Listing, list_folder
from onceforall.data.splits import stratified_sample
from onceforall.errors import DataError

OnBadImage = Literal["refuse", "skip"]

TEST_FRACTION = 0.2
PHOTO_CROP_RATIO = 0.875

_SPLIT_SEED = 0
_SMALL_SIDE_PX = 96
_NUM_PROBES = 64
_NUM_STATISTICS_IMAGES = 512


def open_folder(
    root: Path, *, image_size: int | None, on_bad_image: OnBadImage, max_resident_bytes: int
) -> DataBundle:
    """Open the folder data set at ``root``; `listing` says which layouts there are.

    Images are decoded into memory if they fit and are either squares of one size of at most 96
    pixels, or ``image_size`` says how large they are needed: photographs then keep their centre
    square, resized to leave room for an evaluation crop of 0.875. Without a test part, a fifth
    of each class is split off, always the same. Statistics come from all decoded images, or from
    512 evenly spaced training files; data sets for evaluation only get the published ImageNet
    statistics.

    Args:
        root: Folder to open.
        image_size: Largest size in pixels that the images are needed at.
        on_bad_image: Whether an unreadable image stops everything or is left out. Files that are
            not decoded here are only found to be unreadable when they are used.
        max_resident_bytes: Decoded sets above this size stay files.

    Raises:
        DataError: If the folder or an image cannot be used.
    """
    listing = list_folder(root)
    if listing.empty_files and on_bad_image == "refuse":
        raise DataError(f"{root / listing.empty_files[0]}: cannot be read as an image: empty file")
    splits = _with_test(listing)
    size, crop_ratio = _resident_size(listing.splits, image_size, max_resident_bytes)
    skipped = list(listing.empty_files)
    images: dict[str, Images] = {}
    for name, files in splits.items():
        if size is None:
            images[name] = files
        else:
            images[name], bad = decode_files(files, size, on_bad_image)
            skipped.extend(bad)
    mean, std = _statistics(images.get("train"), on_bad_image)
    return DataBundle(
        name=root.resolve().name,
        class_names=listing.class_names,
        class_titles=listing.class_titles,
        train=images.get("train"),
        valid=images.get("valid"),
        test=images["test"],
        mean=mean,
        std=std,
        fingerprint=listing.fingerprint,
        eval_crop_ratio=crop_ratio,
        skipped=tuple(skipped),
        notes=listing.notes,
    )


def _with_test(listing: Listing) -> Mapping[str, ImageFiles]:
    """Split a test part off where the folder has none."""
    if "all" not in listing.splits:
        return listing.splits
    files = listing.splits["all"]
    try:
        train, test = split_test(files.labels)
    except DataError as error:
        raise DataError(f"{files.root}: {error}") from error
    return {"train": files.subset(train), "test": files.subset(test)}


def split_test(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return (train, test) indices: a stratified fifth, at least one image, always the same.

    Raises:
        DataError: If there are not enough images to keep one of every class for training.
    """
    present = int((labels.bincount() > 0).sum())
    count = max(1, round(len(labels) * TEST_FRACTION))
    count = min(count, len(labels) - present)
    if count < 1:
        raise DataError(f"{len(labels)} images of {present} classes are too few to split")
    test = stratified_sample(labels, count, generator=private_generator("test", _SPLIT_SEED))
    is_train = torch.ones(len(labels), dtype=torch.bool)
    is_train[test] = False
    return is_train.nonzero().flatten(), test


def _resident_size(
    splits: Mapping[str, ImageFiles], needed: int | None, max_bytes: int
) -> tuple[int | None, float]:
    """Return the side to decode to (None: stay files) and the crop that suits evaluation."""
    native = _common_side(splits)
    if native is not None and native <= _SMALL_SIDE_PX:
        side, ratio = native, 1.0
    elif needed is not None:
        side, ratio = math.ceil(needed / PHOTO_CROP_RATIO), PHOTO_CROP_RATIO
        side = side if native is None else min(side, native)
    else:
        return None, PHOTO_CROP_RATIO
    num_images = sum(len(files) for files in splits.values())
    return (side if num_images * 3 * side * side <= max_bytes else None), ratio


def _common_side(splits: Mapping[str, ImageFiles]) -> int | None:
    """Return the side of the images if a spread of them are squares of one size."""
    sizes: set[tuple[int, int]] = set()
    for files in splits.values():
        for index in _spread(len(files), _NUM_PROBES):
            try:
                sizes.add(image_size(files.path(index)))
            except DataError:
                continue  # found again, and then named, when the image is decoded
    (size,) = sizes if len(sizes) == 1 else ((0, 1),)
    return size[0] if size[0] == size[1] else None


def _spread(total: int, count: int) -> list[int]:
    """Return up to ``count`` different, evenly spaced indices below ``total``."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


def decode_files(
    files: ImageFiles, side: int, on_bad_image: OnBadImage
) -> tuple[ImageArrays, list[str]]:
    """Decode every file to ``side`` pixels square; also return the names left out."""
    pixels = np.empty((len(files), 3, side, side), dtype=np.uint8)
    kept: list[int] = []
    bad: list[str] = []
    for index in range(len(files)):
        try:
            pixels[len(kept)] = decode_square(files.path(index), side).transpose(2, 0, 1)
        except DataError:
            if on_bad_image == "refuse":
                raise
            bad.append(files.names[index])
            continue
        kept.append(index)
    labels = files.labels[torch.tensor(kept, dtype=torch.int64)]
    lost = sorted(set(files.labels.tolist()) - set(labels.tolist()))
    if lost:
        raise DataError(f"{files.root}: class {lost[0]} has no readable images ({bad[0]}, ...)")
    return ImageArrays(images=torch.from_numpy(pixels[: len(kept)]), labels=labels), bad


def _statistics(train: Images | None, on_bad_image: OnBadImage) -> tuple[Rgb, Rgb]:
    if train is None:
        return IMAGENET_MEAN, IMAGENET_STD
    if isinstance(train, ImageArrays):
        return channel_moments(train.images)
    counts = np.zeros((3, 256), dtype=np.int64)
    for index in _spread(len(train), _NUM_STATISTICS_IMAGES):
        try:
            # Counted in place: as an array of integers a large picture takes eight times as much.
            counts += np.reshape(decode_rgb(train.path(index)).histogram(), (3, 256))
        except DataError:
            if on_bad_image == "refuse":
                raise
    if not counts.any():
        raise DataError(f"{train.root}: none of the images can be read")
    return moments_from_counts(torch.from_numpy(counts))
