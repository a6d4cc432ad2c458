"""From an open data set to everything a run feeds on: training, validation, test, calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from onceforall.data.batches.protocols import CalibrationBatches, EvalBatches, TrainBatches
from onceforall.data.batches.reading_pool import ReadingPool
from onceforall.data.batches.resident import ResidentBatches, ResidentEvalBatches
from onceforall.data.batches.sharding import Shard
from onceforall.data.batches.streaming import (
    DEFAULT_CACHE_BYTES,
    Report,
    StreamedBatches,
    StreamedEvalBatches,
)
from onceforall.data.bundle import DataBundle, ImageArrays, Images
from onceforall.data.images.augmentation import (
    NO_AUGMENTATION,
    PUBLISHED_PHOTOS,
    SMALL_IMAGES,
    Augmentation,
)
from onceforall.data.sources.folder import OnBadImage
from onceforall.data.splits import Splits
from onceforall.errors import ConfigError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSettings:
    """How images become batches.

    Attributes:
        batch_size: Training images per batch and rank.
        eval_batch_size: Evaluation and calibration images per batch and rank.
        seed: Seed of the run.
        augmentation: Variations of training images.
        crop_ratio: Centre crop of evaluation, in (0, 1]; None takes what suits the data set.
        num_workers: Processes that read files, for all parts of this rank together; 0 reads in
            the process itself. Unused for resident data.
        on_bad_image: What happens to unreadable files that are streamed.
        max_cache_bytes: Bound on resized images kept for evaluation, for each part.
        max_device_bytes: Memory of a GPU that each resident part may take; None is an eighth of
            what is free there when it is opened. What does not fit stays on the host.
        augment_calibration: Whether calibration images are augmented as training images are.
    """

    batch_size: int
    eval_batch_size: int
    seed: int
    augmentation: Augmentation = NO_AUGMENTATION
    crop_ratio: float | None = None
    num_workers: int = 0
    on_bad_image: OnBadImage = "refuse"
    max_cache_bytes: int = DEFAULT_CACHE_BYTES
    max_device_bytes: int | None = None
    augment_calibration: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loaders:
    """The parts of a data set, ready for a run.

    Attributes:
        train: Training batches; None where there are only images to evaluate on.
        valid: What decisions are made on. Without a holdout this is ``test``.
        test: What numbers are reported on.
        calibration: Images for batch-norm recalibration; None where there are no training images
            or none were set aside.
    """

    train: TrainBatches | None
    valid: EvalBatches
    test: EvalBatches
    calibration: CalibrationBatches | None


def open_loaders(
    bundle: DataBundle,
    settings: LoaderSettings,
    splits: Splits | None,
    *,
    device: torch.device | str = "cpu",
    shard: Shard | None = None,
    eval_shard: Shard | None = None,
    report: Report | None = None,
) -> Loaders:
    """Make the batches of a run.

    Args:
        bundle: Open data set.
        settings: How images become batches.
        splits: Which training images are held out and calibrate; None where ``bundle`` has no
            training images. A holdout is used before the validation images of the data set.
        device: Where batches are made, and where resident images live.
        shard: This rank among those that train.
        eval_shard: This rank among those that share one evaluation; None evaluates everything.
            Calibration images are never shared.
        report: Told about damaged files that are skipped.

    Raises:
        ConfigError: If a setting does not suit the data set.
    """
    where = torch.device(device)
    maker = _Maker(bundle, settings, where, report, ReadingPool(settings.num_workers, where))
    test = maker.evaluation(bundle.test, eval_shard)
    if bundle.train is None or splits is None:
        if bundle.train is not None:
            raise ConfigError(f"{bundle.name}: no splits given for its training images")
        return Loaders(train=None, valid=test, test=test, calibration=None)
    if len(splits.valid):
        valid = maker.evaluation(bundle.train.subset(splits.valid), eval_shard)
    else:
        valid = test if bundle.valid is None else maker.evaluation(bundle.valid, eval_shard)
    calibration: CalibrationBatches | None = None
    if len(splits.calibration):
        images = bundle.train.subset(splits.calibration)
        augmented = settings.augment_calibration
        calibration = maker.augmented(images) if augmented else maker.evaluation(images, None)
    whole = torch.equal(splits.train, torch.arange(len(bundle.train)))
    part = bundle.train if whole else bundle.train.subset(splits.train)
    train = maker.training(part, settings.batch_size, shard)
    return Loaders(train=train, valid=valid, test=test, calibration=calibration)


def augmented_calibration(
    bundle: DataBundle, images: ImageArrays, settings: LoaderSettings, *, device: torch.device
) -> CalibrationBatches:
    """Return calibration batches of images that are varied as training images are.

    Args:
        bundle: The data set that the images are of.
        images: Images.
        settings: How images become batches.
        device: Where batches are made.
    """
    return _Maker(bundle, settings, device, None, ReadingPool(0, device)).augmented(images)


def default_augmentation(bundle: DataBundle) -> Augmentation:
    """Return the usual variations for a data set.

    Photographs are cropped as published for ImageNet, small images are shifted; where mirrored
    images would not keep their label they are not mirrored.
    """
    is_photo = bundle.eval_crop_ratio < 1 or not bundle.is_resident
    usual = PUBLISHED_PHOTOS if is_photo else SMALL_IMAGES
    return dataclasses.replace(usual, flip=bundle.flip)


class AugmentedCalibration:
    """Calibration with augmented images, always those of epoch 0; see `CalibrationBatches`.

    Args:
        batches: Training batches of the calibration images. Only full batches are used.
    """

    def __init__(self, batches: TrainBatches) -> None:
        self._batches = batches

    def calibration_batches(self, resolution: int) -> Iterator[Tensor]:
        """Yield image batches at ``resolution`` pixels."""
        for _, (images, _) in self._batches.iterate(0, resolution_of=lambda step: resolution):
            yield images


@dataclasses.dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the batches of any part, resident or streamed."""

    bundle: DataBundle
    settings: LoaderSettings
    device: torch.device
    report: Report | None
    pool: ReadingPool

    @property
    def crop_ratio(self) -> float:
        chosen = self.settings.crop_ratio
        return self.bundle.eval_crop_ratio if chosen is None else chosen

    def training(self, images: Images, batch_size: int, shard: Shard | None) -> TrainBatches:
        if isinstance(images, ImageArrays):
            return ResidentBatches(
                images,
                augmentation=self.settings.augmentation,
                mean=self.bundle.mean,
                std=self.bundle.std,
                batch_size=batch_size,
                seed=self.settings.seed,
                device=self.device,
                shard=shard,
                max_device_bytes=self.settings.max_device_bytes,
            )
        return StreamedBatches(
            images,
            augmentation=self.settings.augmentation,
            mean=self.bundle.mean,
            std=self.bundle.std,
            batch_size=batch_size,
            seed=self.settings.seed,
            device=self.device,
            shard=shard,
            crop_ratio=self.crop_ratio,
            on_bad_image=self.settings.on_bad_image,
            report=self.report,
            pool=self.pool,
        )

    def augmented(self, images: Images) -> AugmentedCalibration:
        size = min(self.settings.eval_batch_size, len(images))
        return AugmentedCalibration(self.training(images, size, None))

    def evaluation(
        self, images: Images, shard: Shard | None
    ) -> ResidentEvalBatches | StreamedEvalBatches:
        if isinstance(images, ImageArrays):
            return ResidentEvalBatches(
                images,
                mean=self.bundle.mean,
                std=self.bundle.std,
                batch_size=self.settings.eval_batch_size,
                crop_ratio=self.crop_ratio,
                device=self.device,
                shard=shard,
                max_cache_bytes=self.settings.max_cache_bytes,
                max_device_bytes=self.settings.max_device_bytes,
            )
        return StreamedEvalBatches(
            images,
            mean=self.bundle.mean,
            std=self.bundle.std,
            batch_size=self.settings.eval_batch_size,
            crop_ratio=self.crop_ratio,
            device=self.device,
            shard=shard,
            on_bad_image=self.settings.on_bad_image,
            report=self.report,
            max_cache_bytes=self.settings.max_cache_bytes,
            pool=self.pool,
        )
