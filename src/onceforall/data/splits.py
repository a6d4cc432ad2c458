"""Which training images are held out for validation and which calibrate batch norm."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from onceforall.data.seeding import private_generator
from onceforall.errors import ConfigError

PUBLISHED_VALID_SEED = 2147483647
PUBLISHED_CALIBRATION_SEED = 937162211


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Splits:
    """Indices into the training images, int64, one dimension.

    Attributes:
        train: Images to train on.
        valid: Images held out; disjoint from ``train``.
        calibration: Images for batch-norm recalibration: part of ``train``, never of ``valid``.
    """

    train: Tensor
    valid: Tensor
    calibration: Tensor


def split_train(labels: Tensor, *, num_valid: int, num_calibration: int, seed: int) -> Splits:
    """Hold out ``num_valid`` images and draw ``num_calibration`` of the rest, both stratified.

    Args:
        labels: ``(N,)`` int64 labels of the training images.
        num_valid: Images to hold out; 0 .. N - number of classes, so that each class keeps one.
        num_calibration: Calibration images, 0 .. N - num_valid.
        seed: Names the split; the same seed gives the same split on any machine.

    Raises:
        ConfigError: If a count does not fit.
    """
    _check_counts(len(labels), num_valid, num_calibration)
    valid = stratified_sample(labels, num_valid, generator=private_generator("valid", seed))
    train = _complement(len(labels), valid)
    generator = private_generator("calibration", seed)
    if num_calibration == len(train):
        return Splits(train=train, valid=valid, calibration=train)
    drawn = stratified_sample(labels[train], num_calibration, generator=generator, keep_one=False)
    return Splits(train=train, valid=valid, calibration=train[drawn])


def published_split(num_images: int, *, num_valid: int, num_calibration: int) -> Splits:
    """Split as the published ImageNet recipe does, in its order.

    The holdout is the start of ``randperm(num_images)`` with the published seed. Calibration
    images are the start of another such permutation; the published code draws them from the
    holdout too (22 of 2,000 there), here the holdout is left out.

    Args:
        num_images: Number of training images (1,281,167 for ImageNet).
        num_valid: Images to hold out (10,000 as published).
        num_calibration: Calibration images (2,000 as published).

    Raises:
        ConfigError: If a count does not fit.
    """
    _check_counts(num_images, num_valid, num_calibration)
    order = _published_permutation(num_images, PUBLISHED_VALID_SEED)
    valid, train = order[:num_valid], order[num_valid:]
    held_out = torch.zeros(num_images, dtype=torch.bool)
    held_out[valid] = True
    candidates = _published_permutation(num_images, PUBLISHED_CALIBRATION_SEED)
    calibration = candidates[~held_out[candidates]][:num_calibration]
    return Splits(train=train, valid=valid, calibration=calibration)


def stratified_sample(
    labels: Tensor, count: int, *, generator: torch.Generator, keep_one: bool = True
) -> Tensor:
    """Return ``count`` sorted indices whose classes are in proportion, by largest remainder.

    Args:
        labels: ``(N,)`` int64.
        count: Indices to draw.
        generator: Source of the draw.
        keep_one: Leave at least one image of every class undrawn.

    Raises:
        ConfigError: If that many images cannot be drawn.
    """
    sizes = labels.bincount()
    room = (sizes - 1).clamp(min=0) if keep_one else sizes
    if not 0 <= count <= int(room.sum()):
        raise ConfigError(
            f"{count} images to hold out is not in 0 .. {int(room.sum())}: {len(labels)} images, "
            f"{int((sizes > 0).sum())} classes"
        )
    order = torch.randperm(len(labels), generator=generator)
    by_class = order[labels[order].argsort(stable=True)]
    rank_in_class = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    taken = by_class[rank_in_class < _quotas(sizes, room, count)[labels[by_class]]]
    return taken.sort().values


def _quotas(sizes: Tensor, room: Tensor, count: int) -> Tensor:
    """Share ``count`` among classes in proportion to ``sizes``, none above its ``room``."""
    total = max(int(sizes.sum()), 1)
    exact = [size * count / total for size in sizes.tolist()]
    limits = room.tolist()
    quotas = [min(int(share), limit) for share, limit in zip(exact, limits, strict=True)]
    while sum(quotas) < count:
        # The class that is furthest below its share; the lowest index on a tie.
        open_classes = [c for c, limit in enumerate(limits) if quotas[c] < limit]
        quotas[max(open_classes, key=lambda c: (exact[c] - quotas[c], -c))] += 1
    return torch.tensor(quotas)


def _check_counts(num_images: int, num_valid: int, num_calibration: int) -> None:
    if not 0 <= num_valid < num_images:
        raise ConfigError(f"num_valid {num_valid} is not in 0 .. {num_images - 1}")
    if not 0 <= num_calibration <= num_images - num_valid:
        raise ConfigError(
            f"num_calibration {num_calibration} is not in 0 .. {num_images - num_valid}"
        )


def _complement(num_images: int, indices: Tensor) -> Tensor:
    keep = torch.ones(num_images, dtype=torch.bool)
    keep[indices] = False
    return keep.nonzero().flatten()


def _published_permutation(num_images: int, seed: int) -> Tensor:
    return torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
