"""Data sets that are read from files while training: stock loaders around our readers.

The sampler hands a worker the keys of a batch: which images, of which epoch, at which size. All
randomness follows from these, so neither the number of workers nor a restart changes a batch.
Workers decode, crop and resize to uint8; colours, normalisation and cutout follow on the device.

Shape legend: `B` images, `R` side in pixels.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from onceforall.data.batches.protocols import Batch
from onceforall.data.batches.readers import (
    EvalKey,
    EvalReader,
    RawEvalBatch,
    RawTrainBatch,
    TrainKey,
    TrainReader,
)
from onceforall.data.batches.reading_pool import ReadingPool
from onceforall.data.batches.sharding import Shard
from onceforall.data.bundle import ImageFiles, Rgb
from onceforall.data.images.augmentation import Augmentation
from onceforall.data.images.color import Jitter, color_matrices, map_pixels, normalize_matrix
from onceforall.data.images.device_ops import cutout_, normalization, scale_and_shift, send
from onceforall.data.seeding import private_generator
from onceforall.data.sources.folder import PHOTO_CROP_RATIO, OnBadImage
from onceforall.errors import ConfigError, DataError

DEFAULT_CACHE_BYTES = 2 * 2**30

Report = Callable[[str], None]
"""Receives one line about a damaged file that was skipped."""


class StreamedBatches:
    """Training batches read from files; see `TrainBatches`.

    Epochs, ranks and the last part are as in `ResidentBatches`. The random draws of an image
    follow from (seed, epoch, image).

    Args:
        files: Image files.
        augmentation: Random variations; ``crop`` is ``"resized"`` or ``"none"``.
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation of images in [0, 1].
        batch_size: Images per batch and rank.
        seed: Seed of the run.
        device: Where batches are made.
        shard: This rank among all.
        num_workers: Processes of its own that read; 0 reads in this process.
        crop_ratio: Centre crop where ``crop`` is ``"none"``.
        on_bad_image: Whether an unreadable file is an error, or is replaced by the next good one.
        report: Told about every replaced file.
        pool: Processes that read for other parts as well, instead of ``num_workers``.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(
        self,
        files: ImageFiles,
        *,
        augmentation: Augmentation,
        mean: Rgb,
        std: Rgb,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        shard: Shard | None = None,
        num_workers: int = 0,
        crop_ratio: float = PHOTO_CROP_RATIO,
        on_bad_image: OnBadImage = "refuse",
        report: Report | None = None,
        pool: ReadingPool | None = None,
    ) -> None:
        _check(batch_size, crop_ratio)
        if augmentation.crop == "pad":
            raise ConfigError("crop pad needs resident data; streamed data take resized or none")
        self._files = files
        self._augmentation = augmentation
        self.num_images = len(files)
        self.batch_size = batch_size
        self._seed = seed
        self._device = torch.device(device)
        self._jitter = Jitter.of(augmentation.color, self._device)
        self._normal = normalize_matrix(mean, std).to(self._device)
        self._low = self._normal[:3, 3]  # where 0 and 255 of each channel go
        self._high = self._normal[:3, :3].diagonal() * 255 + self._low
        self._shard = shard or Shard()
        self.steps_per_epoch = self._shard.steps_per_epoch(self.num_images, batch_size)
        self._on_bad_image = on_bad_image
        self._report = report
        self._pool = pool or ReadingPool(num_workers, self._device)
        self._reader = self._pool.add(
            TrainReader(
                files, augmentation, seed=seed, crop_ratio=crop_ratio, stack=self._pool.stacks
            )
        )

    def iterate(
        self, epoch: int, *, start_step: int = 0, resolution_of: Callable[[int], int]
    ) -> Iterator[tuple[int, Batch]]:
        """Yield ``(step, (images, labels))`` of ``epoch`` from ``start_step``.

        Workers run ahead, so ``resolution_of`` is asked for later steps than the one yielded.

        Raises:
            DataError: If a file cannot be read, or a worker process died.
        """
        steps = range(start_step, self.steps_per_epoch)
        order = torch.randperm(
            self.num_images, generator=private_generator("permutation", self._seed, epoch)
        )

        shard, batch_size = self._shard, self.batch_size

        def keys_of(step: int) -> list[TrainKey]:
            resolution = resolution_of(step)
            mine = shard.step_indices(order, step, batch_size)
            return [TrainKey(index, epoch, resolution) for index in mine.tolist()]

        raws: Iterator[RawTrainBatch] = self._pool.read(self._reader, steps, keys_of)
        for step, raw in zip(steps, raws, strict=True):
            _handle_bad(raw, self._on_bad_image, self._report)
            if not len(raw.labels):
                raise DataError(f"{self._files.root}: {len(raw.bad)} damaged files in a row")
            yield step, self._finish(raw)

    def _finish(self, raw: RawTrainBatch) -> Batch:
        """Change colours, normalise and cut out on the device."""
        device = self._device
        pixels = raw.pixels
        if isinstance(pixels, Tensor):
            pixels = send(pixels, device)
        draws = send(raw.draws, device)
        means = _mean_colors(pixels, self._jitter.mode, device)
        matrices = self._normal @ color_matrices(self._jitter, draws[:, :8], means)
        images = map_pixels(pixels, matrices, low=self._low, high=self._high)
        if self._augmentation.cutout > 0:
            cutout_(images, draws[:, 8:], side=self._augmentation.cutout)
        return images, send(raw.labels, device)


class StreamedEvalBatches:
    """Evaluation batches read from files; see `EvalBatches`.

    The shorter side is resized to ``ceil(resolution / crop_ratio)`` and the centre is kept, as in
    the published evaluation and bit for bit. Decoded images are kept in memory for the most
    recently used resolutions as far as they fit. Damaged files, where they are allowed, are left
    out: count labels, not images.

    Args:
        files: Image files.
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation of images in [0, 1].
        batch_size: Images per batch and rank.
        crop_ratio: In (0, 1].
        device: Where batches are made.
        shard: This rank among all; each image belongs to one rank.
        num_workers: Processes of its own that read; 0 reads in this process.
        on_bad_image: Whether an unreadable file is an error or is left out.
        report: Told about every file left out.
        max_cache_bytes: Bound on the decoded images that are kept, on the host; 0 keeps none.
        pool: Processes that read for other parts as well, instead of ``num_workers``.

    Raises:
        ConfigError: If a setting is out of range.
    """

    def __init__(
        self,
        files: ImageFiles,
        *,
        mean: Rgb,
        std: Rgb,
        batch_size: int,
        crop_ratio: float = PHOTO_CROP_RATIO,
        device: torch.device | str = "cpu",
        shard: Shard | None = None,
        num_workers: int = 0,
        on_bad_image: OnBadImage = "refuse",
        report: Report | None = None,
        max_cache_bytes: int = DEFAULT_CACHE_BYTES,
        pool: ReadingPool | None = None,
    ) -> None:
        _check(batch_size, crop_ratio)
        self._files = files
        self.num_images = len(files)  # of all ranks
        self._indices = (shard or Shard()).eval_indices(len(files)).tolist()
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._normal = normalization(mean, std, self._device)
        self._on_bad_image = on_bad_image
        self._report = report
        self._max_cache_bytes = max_cache_bytes
        self._cache: collections.OrderedDict[int, list[RawEvalBatch]] = collections.OrderedDict()
        self._pool = pool or ReadingPool(num_workers, self._device)
        self._reader = self._pool.add(EvalReader(files, crop_ratio=crop_ratio))

    def batches(self, resolution: int) -> Iterator[Batch]:
        """Yield ``(images, labels)`` at ``resolution`` pixels, the last part kept.

        Raises:
            DataError: If a file cannot be read, or a worker process died.
        """
        for raw in self._raw_batches(resolution):
            pixels = send(raw.pixels, self._device).permute(0, 3, 1, 2)
            yield scale_and_shift(pixels, *self._normal), send(raw.labels, self._device)

    def calibration_batches(self, resolution: int) -> Iterator[Tensor]:
        """Yield the images of `batches` alone."""
        for images, _ in self.batches(resolution):
            yield images

    def _raw_batches(self, resolution: int) -> Iterator[RawEvalBatch]:
        if resolution in self._cache:
            self._cache.move_to_end(resolution)
            yield from self._cache[resolution]
            return
        parts = [
            self._indices[start : start + self._batch_size]
            for start in range(0, len(self._indices), self._batch_size)
        ]
        if not parts:
            return

        def keys_of(step: int) -> list[EvalKey]:
            return [EvalKey(index, resolution) for index in parts[step]]

        num_bytes = len(self._indices) * 3 * resolution**2
        kept: list[RawEvalBatch] = []
        steps = range(len(parts))
        raws: Iterator[RawEvalBatch] = self._pool.read(self._reader, steps, keys_of)
        for raw in raws:
            _handle_bad(raw, self._on_bad_image, self._report)
            if num_bytes <= self._max_cache_bytes:
                kept.append(_own(raw))
            if len(raw.labels):
                yield raw
        if kept:
            self._keep(resolution, kept)

    def _keep(self, resolution: int, raws: list[RawEvalBatch]) -> None:
        """Put a whole pass into the cache, and the oldest out while there is not room for all."""
        self._cache[resolution] = [raw for raw in raws if len(raw.labels)]
        while sum(map(_num_bytes, self._cache.values())) > self._max_cache_bytes:
            self._cache.popitem(last=False)


def _handle_bad(raw: RawTrainBatch | RawEvalBatch, mode: OnBadImage, report: Report | None) -> None:
    for line in raw.bad:
        if mode == "refuse":
            raise DataError(line)
        if report is not None:
            report(line)


def _mean_colors(pixels: Tensor | list[Tensor], mode: str, device: torch.device) -> Tensor:
    """Return the ``(B, 3)`` mean RGB of each image, or zeros where nothing depends on it."""
    if mode != "torch":
        return torch.zeros(len(pixels), 3, device=device)
    if isinstance(pixels, Tensor):
        return pixels.flatten(1, 2).float().mean(dim=1)[:, :3]
    return torch.stack([image.flatten(0, 1).float().mean(dim=0) for image in pixels])[:, :3]


def _own(raw: RawEvalBatch) -> RawEvalBatch:
    """Return a batch to keep: what comes from a worker holds on to shared memory.

    A batch in pinned memory is a copy already, and stays pinned for the next time.
    """
    if raw.pixels.is_pinned():
        return raw
    return raw._replace(pixels=raw.pixels.clone(), labels=raw.labels.clone())


def _num_bytes(raws: list[RawEvalBatch]) -> int:
    return sum(raw.pixels.numel() for raw in raws)


def _check(batch_size: int, crop_ratio: float) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size} is not at least 1")
    if not 0 < crop_ratio <= 1:
        raise ConfigError(f"crop_ratio {crop_ratio} is not in (0, 1]")
