"""The data of a run, opened and split once: what every step draws its batches from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onceforall.data import (
    Augmentation,
    DataBundle,
    EvalBatches,
    ImageArrays,
    Images,
    ResidentBatches,
    ResidentEvalBatches,
    Shard,
    TrainBatches,
    open_dataset,
    split_train,
)
from onceforall.data.decode import image_size
from onceforall.errors import DataError
from onceforall.recipes import DataConfig, RunConfig
from onceforall.train.ranks import Ranks

_EVAL_BATCH = 250


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSession:
    """Batches for every purpose.

    Attributes:
        bundle: The open data set.
        valid: Held-out images: they choose subnets, never train them.
        calibration: Training images that recalibrate batch norm, not augmented.
        test: Images to report numbers on.
    """

    bundle: DataBundle
    config: RunConfig
    train_images: Images
    valid: EvalBatches
    calibration: EvalBatches
    test: EvalBatches
    device: torch.device
    ranks: Ranks

    def train_batches(self) -> TrainBatches:
        """Return this rank's training batches."""
        config = self.config
        flip = self.bundle.flip if config.data.flip is None else config.data.flip
        augmentation = Augmentation(flip=flip, padding=config.data.padding)
        if not isinstance(self.train_images, ImageArrays):
            raise DataError("training images do not fit in memory")
        return ResidentBatches(
            self.train_images,
            augmentation=augmentation,
            mean=self.bundle.mean,
            std=self.bundle.std,
            batch_size=config.train.batch_size,
            seed=config.seed,
            device=self.device,
            shard=Shard(rank=self.ranks.rank, world_size=self.ranks.world_size),
        )

    def calibration_batches(self, resolution: int) -> Iterator[Tensor]:
        """Yield the calibration images at ``resolution`` pixels."""
        for images, _ in self.calibration.batches(resolution):
            yield images


def open_data(config: DataConfig, *, image_size: int | None = None) -> DataBundle:
    """Open the data set that a configuration names."""
    return open_dataset(
        config.source,
        root=Path(config.root) if config.root else None,
        on_bad_image=config.on_bad_image,
        image_size=image_size,
    )


def start_session(
    config: RunConfig, bundle: DataBundle, *, device: torch.device, ranks: Ranks | None = None
) -> DataSession:
    """Split the training images and put everything on ``device``.

    Validation and calibration images are disjoint: calibration is drawn from what is trained on.

    Raises:
        DataError: If there are no training images.
    """
    if bundle.train is None:
        raise DataError(f"{bundle.name}: there are no training images, only images to evaluate on")
    num_valid = 0 if bundle.valid is not None else config.data.num_valid
    splits = split_train(
        bundle.train.labels,
        num_valid=num_valid,
        num_calibration=config.data.num_calibration,
        seed=config.seed,
    )
    train = bundle.train.subset(splits.train)
    valid = bundle.valid if bundle.valid is not None else bundle.train.subset(splits.valid)
    return DataSession(
        bundle=bundle,
        config=config,
        train_images=train,
        valid=eval_batches(bundle, valid, device=device),
        calibration=eval_batches(bundle, bundle.train.subset(splits.calibration), device=device),
        test=eval_batches(bundle, bundle.test, device=device),
        device=device,
        ranks=ranks or Ranks(),
    )


def eval_batches(bundle: DataBundle, images: Images, *, device: torch.device) -> EvalBatches:
    """Return batches of ``images`` in a fixed order, normalised as the data set says."""
    if not isinstance(images, ImageArrays):
        raise DataError("images do not fit in memory")
    return ResidentEvalBatches(
        images,
        mean=bundle.mean,
        std=bundle.std,
        batch_size=_EVAL_BATCH,
        crop_ratio=bundle.eval_crop_ratio,
        device=device,
    )


def describe(bundle: DataBundle) -> dict[str, Any]:
    """Return facts about a data set for people and programs."""
    return {
        "name": bundle.name,
        "classes": bundle.num_classes,
        "train": bundle.num_train,
        "valid": 0 if bundle.valid is None else len(bundle.valid),
        "test": bundle.num_test,
        "image_side": image_side(bundle.test),
        "in_memory": bundle.is_resident,
        "mean": [round(value, 4) for value in bundle.mean],
        "std": [round(value, 4) for value in bundle.std],
        "skipped": list(bundle.skipped),
        "notes": list(bundle.notes),
    }


def image_side(images: Images) -> int:
    """Return the side of the images in pixels; of files, the median shorter side of a spread."""
    if isinstance(images, ImageArrays):
        return max(images.images.shape[2:])
    step = max(1, len(images) // 32)
    sides = sorted(min(image_size(images.path(i))) for i in range(0, len(images), step))
    return sides[len(sides) // 2]
