"""The data of a run, opened and split once: what every step draws its batches from."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onceforall.arch import Arch
from onceforall.data import (
    CalibrationBatches,
    DataBundle,
    EvalBatches,
    ImageArrays,
    Images,
    LoaderSettings,
    Mixing,
    Shard,
    Splits,
    TrainBatches,
    default_augmentation,
    mix,
    open_dataset,
    open_loaders,
    published_split,
    split_train,
)
from onceforall.data.images.augmentation import Augmentation
from onceforall.data.images.decode import image_size
from onceforall.data.sources.folder import OnBadImage
from onceforall.errors import DataError
from onceforall.job.config import RunConfig
from onceforall.job.sections import DataConfig
from onceforall.measure.accuracy import Accuracy
from onceforall.measure.subnet import evaluate_arch
from onceforall.supernets.nets import ElasticNet
from onceforall.training.ranks import Ranks

_EVAL_BATCH = 250
_IMAGENET_TRAIN = 1_281_167

ChangeBatch = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSession:
    """Batches for every purpose.

    Attributes:
        bundle: The open data set: its classes, mean and deviation.
        train: Training batches of this rank.
        valid: Held-out images: they choose subnets, never train them.
        test: Images to report numbers on.
        calibration: Training images that recalibrate batch norm, not augmented.
        change_batch: Mixes images and labels of a training step, if the configuration says so.
    """

    bundle: DataBundle
    train: TrainBatches
    valid: EvalBatches
    test: EvalBatches
    calibration: CalibrationBatches
    change_batch: ChangeBatch

    def calibration_batches(self, resolution: int) -> Iterator[Tensor]:
        """Yield the calibration images at ``resolution`` pixels."""
        return self.calibration.calibration_batches(resolution)

    def valid_accuracy(self, net: ElasticNet, arch: Arch) -> Accuracy:
        """Return the accuracy of a subnet, recalibrated, on the validation images."""
        return evaluate_arch(net, arch, calibration=self.calibration_batches, images=self.valid)


def open_data(config: DataConfig, *, image_size: int | None = None) -> DataBundle:
    """Open the data set that a configuration names, with its normalisation."""
    bundle = open_dataset(
        config.source,
        root=Path(config.root) if config.root else None,
        on_bad_image=config.on_bad_image,
        image_size=image_size,
    )
    return dataclasses.replace(
        bundle, mean=config.mean or bundle.mean, std=config.std or bundle.std
    )


def training_images(bundle: DataBundle) -> Images:
    """Return the training images.

    Raises:
        DataError: If there are none.
    """
    if bundle.train is None:
        raise DataError(f"{bundle.name}: there are no training images, only images to evaluate on")
    return bundle.train


def splits_of(config: RunConfig, bundle: DataBundle) -> Splits:
    """Return which training images are held out and which calibrate, as a run is configured.

    Raises:
        ConfigError: If there are not as many.
        DataError: If there are no training images.
    """
    train, data = training_images(bundle), config.data
    num_valid = 0 if bundle.valid is not None else data.num_valid
    if len(train) == _IMAGENET_TRAIN:
        return published_split(
            _IMAGENET_TRAIN, num_valid=num_valid, num_calibration=data.num_calibration
        )
    return split_train(
        train.labels,
        num_valid=num_valid,
        num_calibration=data.num_calibration,
        seed=config.seed,
    )


def start_session(
    config: RunConfig,
    bundle: DataBundle,
    *,
    device: torch.device,
    ranks: Ranks | None = None,
    report: Callable[[str], None] | None = None,
) -> DataSession:
    """Split the training images and make batches of everything on ``device``.

    Validation and calibration images are disjoint: calibration is drawn from what is trained on.
    A data set of ImageNet's size is split as published.

    Args:
        config: The run's configuration.
        bundle: Its open data set.
        device: Where batches are made.
        ranks: This process among all that train.
        report: Told about damaged files that are skipped.

    Raises:
        DataError: If there are no training images.
    """
    splits = splits_of(config, bundle)
    data, ranks = config.data, ranks or Ranks()
    settings = LoaderSettings(
        batch_size=config.train.batch_size,
        eval_batch_size=_EVAL_BATCH,
        seed=config.seed,
        augmentation=augmentation_of(data, bundle),
        augment_calibration=calibration_augmentation(data, bundle) is not None,
        num_workers=_num_workers(config, ranks),
        on_bad_image=data.on_bad_image,
    )
    shard = Shard(rank=ranks.rank, world_size=ranks.world_size)
    loaders = open_loaders(bundle, settings, splits, device=device, shard=shard, report=report)
    if loaders.train is None or loaders.calibration is None:
        raise DataError(f"{bundle.name}: there are no training or calibration images")
    return DataSession(
        bundle=bundle,
        train=loaders.train,
        valid=loaders.valid,
        test=loaders.test,
        calibration=loaders.calibration,
        change_batch=_change_batch(config, bundle.num_classes),
    )


def training_sample(
    config: RunConfig,
    bundle: DataBundle,
    count: int,
    *,
    batch_size: int,
    device: torch.device,
    ranks: Ranks,
) -> EvalBatches:
    """Return a rank's part of some training images as they are, in no order.

    Args:
        config: The run's configuration.
        bundle: Its open data set.
        count: Images of all ranks; fewer where there are not as many for calibration.
        batch_size: Images of a batch.
        device: Where batches are made.
        ranks: This process among all.
    """
    chosen = splits_of(config, bundle).calibration
    mixed = torch.Generator().manual_seed(config.seed)
    chosen = chosen[torch.randperm(len(chosen), generator=mixed)][:count]
    seen = dataclasses.replace(bundle, train=None, test=training_images(bundle).subset(chosen))
    settings = LoaderSettings(
        batch_size=batch_size,
        eval_batch_size=batch_size,
        seed=config.seed,
        on_bad_image=config.data.on_bad_image,
        num_workers=_num_workers(config, ranks),
    )
    shard = Shard(rank=ranks.rank, world_size=ranks.world_size)
    return open_loaders(seen, settings, None, device=device, eval_shard=shard).test


def augmentation_of(data: DataConfig, bundle: DataBundle) -> Augmentation:
    """Return how training images are varied: what suits the data set, and what the settings say."""
    usual = default_augmentation(bundle)
    return dataclasses.replace(
        usual,
        crop=data.crop or usual.crop,
        padding=data.padding,
        padding_mode=data.padding_mode,
        flip=usual.flip if data.flip is None else data.flip,
        color=usual.color if data.color is None else data.color,
        min_scale=data.min_scale,
        cutout=data.cutout,
        policy=data.policy,
    )


def calibration_augmentation(data: DataConfig, bundle: DataBundle) -> Augmentation | None:
    """Return how images that recalibrate batch norm are varied; None where they are not.

    Black borders of shifted images are part of what batch norm has learned: without them statistics
    are others, and subnets lose three points. Resized crops have none (docs/results/pictures.md).
    """
    used = augmentation_of(data, bundle)
    return used if used.crop == "pad" else None


def _num_workers(config: RunConfig, ranks: Ranks) -> int:
    """Return the reading processes of a rank; ranks that a run starts itself share them."""
    count, sharers = config.data.num_workers, max(1, config.train.ranks)
    if ranks.world_size == 1 or not count:
        return count
    return max(1, count // sharers)


def _change_batch(config: RunConfig, num_classes: int) -> ChangeBatch:
    mixing = Mixing(mixup_alpha=config.data.mixup_alpha, cutmix_alpha=config.data.cutmix_alpha)
    if mixing.mixup_alpha == 0 and mixing.cutmix_alpha == 0:
        return lambda images, labels, step: (images, labels)

    def change(images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        rng = random.Random(f"{config.seed}/mixing/{step}")
        return mix(images, labels, mixing, num_classes=num_classes, rng=rng)

    return change


def describe(bundle: DataBundle, *, on_bad_image: OnBadImage = "refuse") -> dict[str, Any]:
    """Return facts about a data set for people and programs."""
    return {
        "name": bundle.name,
        "classes": bundle.num_classes,
        "train": bundle.num_train,
        "valid": 0 if bundle.valid is None else len(bundle.valid),
        "test": bundle.num_test,
        "image_side": image_side(bundle.test, on_bad_image=on_bad_image),
        "in_memory": bundle.is_resident,
        "mean": [round(value, 4) for value in bundle.mean],
        "std": [round(value, 4) for value in bundle.std],
        "skipped": list(bundle.skipped),
        "notes": list(bundle.notes),
    }


def image_side(images: Images, *, on_bad_image: OnBadImage = "refuse") -> int:
    """Return the side of the images in pixels; of files, the median shorter side of a spread.

    Raises:
        DataError: If a file cannot be read, or none where such files are left out.
    """
    if isinstance(images, ImageArrays):
        return max(images.images.shape[2:])
    step = max(1, len(images) // 32)
    sides = []
    for i in range(0, len(images), step):
        try:
            sides.append(min(image_size(images.path(i))))
        except DataError:
            if on_bad_image == "refuse":
                raise
    if not sides:
        raise DataError(f"{images.root}: none of the images can be read")
    return sorted(sides)[len(sides) // 2]
