"""Data sets that are in memory as uint8, on the device if they fit, and are augmented there.

Shape legend: `N` images of the set, `B` of a batch, `R` side in pixels.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from onceforall.data.batches.protocols import Batch
from onceforall.data.batches.sharding import Shard
from onceforall.data.bundle import ImageArrays, Rgb
from onceforall.data.images.augmentation import Augmentation
from onceforall.data.images.boxes import CropBoxes, draw_boxes
from onceforall.data.images.color import NUM_COLOR_DRAWS, Jitter, jitter_colors
from onceforall.data.images.device_ops import (
    cutout_,
    normalization,
    scale_and_shift,
    send,
)
from onceforall.data.images.resample import resample
from onceforall.data.seeding import private_generator
from onceforall.errors import ConfigError

DEFAULT_CACHE_BYTES = 2**30
_RESIZE_CHUNK = 1024
# Part of a GPU's free memory that the images of one part of a data set may take. A run opens four
# parts, one after the other, and trains in what they leave: at least (7 / 8) ** 4 = 59 %.
_DEVICE_SHARE = 1 / 8


def home_of(
    num_bytes: int, device: torch.device, *, max_device_bytes: int | None = None
) -> torch.device:
    """Return where images that are kept should live: on the device, or on the host beside it.

    On a CPU that is the same memory. On a GPU they live there if they fit into a budget; else they
    stay on the host, and each batch is copied when it is needed: the values are the same.

    Args:
        num_bytes: What the images take.
        device: Where batches are made.
        max_device_bytes: The budget; None is an eighth of the memory that is free on the GPU now.
    """
    if device.type != "cuda":
        return device
    if max_device_bytes is None:
        # What PyTorch keeps for itself is free as well.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        max_device_bytes = int(_DEVICE_SHARE * (torch.cuda.mem_get_info(device)[0] + kept))
    return device if num_bytes <= max_device_bytes else torch.device("cpu")


class ResidentBatches:
    """Training batches of images that are in memory; see `TrainBatches`.

    An epoch is a permutation drawn from (seed, epoch), cut into full batches; the rest is left
    out and falls elsewhere in the next epoch. A set smaller than one batch is repeated to fill it.

    The images are moved to the device once if they fit into ``max_device_bytes``. Larger sets stay
    on the host, and the images of a batch are copied; batches are the same bit by bit.

    Args:
        arrays: Images and labels.
        augmentation: Random variations.
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation of images in [0, 1].
        batch_size: Images per batch and rank.
        seed: Seed of the run.
        device: Where batches are made.
        shard: This rank among all.
        max_device_bytes: Memory of a GPU that the images may take; None is an eighth of what is
            free there now.

    Raises:
        ConfigError: If ``batch_size`` is below 1 or the augmentation needs files.
    """

    def __init__(
        self,
        arrays: ImageArrays,
        *,
        augmentation: Augmentation,
        mean: Rgb,
        std: Rgb,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        shard: Shard | None = None,
        max_device_bytes: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size} is not at least 1")
        if augmentation.policy != "none":
            raise ConfigError(
                f"policy {augmentation.policy} needs photographs read from files, not small images"
            )
        self._device = torch.device(device)
        home = home_of(arrays.images.numel(), self._device, max_device_bytes=max_device_bytes)
        self._images = arrays.images.to(home)
        self._labels = arrays.labels.to(home)
        self._augmentation = augmentation
        self._jitter = Jitter.of(augmentation.color, self._device)
        self._normal = normalization(mean, std, self._device)
        self.num_images = len(self._images)
        self.batch_size = batch_size
        self._seed = seed
        self._shard = shard or Shard()
        self.steps_per_epoch = self._shard.steps_per_epoch(self.num_images, batch_size)
        self._epoch_order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def batch(self, epoch: int, step: int, *, resolution: int) -> Batch:
        """Return images and labels of one step, a pure function of (seed, epoch, step).

        Args:
            epoch: Epoch from 0.
            step: Step from 0, below ``steps_per_epoch``.
            resolution: Side in pixels.

        Returns:
            ``(B, 3, R, R)`` float32 channels_last, normalised, and ``(B,)`` int64.
        """
        if not 0 <= step < self.steps_per_epoch:
            raise ConfigError(f"step {step} is not in 0 .. {self.steps_per_epoch - 1}")
        whole = self.batch_size * self._shard.world_size
        mine = self._shard.rows(self.batch_size)
        generator = private_generator("augmentation", self._seed, epoch, step)
        height, width = self._images.shape[2:]
        boxes = draw_boxes(whole, self._augmentation, size=(height, width), generator=generator)
        centres = torch.rand((whole, 2), generator=generator)[mine]
        colors = torch.rand((whole, NUM_COLOR_DRAWS), generator=generator)[mine]
        indices = self._shard.step_indices(self._order(epoch), step, self.batch_size)
        chosen = send(indices, self._images.device)
        images = send(self._images[chosen], self._device)
        images = self._cut(images, boxes.rows(mine), resolution)
        if self._jitter.mode != "none":
            images = jitter_colors(images, self._jitter, send(colors, self._device))
        images = scale_and_shift(images, *self._normal)
        if self._augmentation.cutout > 0:
            cutout_(images, send(centres, self._device), side=self._augmentation.cutout)
        return images, send(self._labels[chosen], self._device)

    def iterate(
        self, epoch: int, *, start_step: int = 0, resolution_of: Callable[[int], int]
    ) -> Iterator[tuple[int, Batch]]:
        """Yield ``(step, (images, labels))`` of ``epoch`` from ``start_step``."""
        for step in range(start_step, self.steps_per_epoch):
            yield step, self.batch(epoch, step, resolution=resolution_of(step))

    def _order(self, epoch: int) -> Tensor:
        if self._epoch_order[0] != epoch:
            generator = private_generator("permutation", self._seed, epoch)
            self._epoch_order = (epoch, torch.randperm(self.num_images, generator=generator))
        return self._epoch_order[1]

    def _cut(self, images: Tensor, boxes: CropBoxes, resolution: int) -> Tensor:
        is_padded = self._augmentation.crop == "pad"
        side = max(images.shape[2:])
        return resample(
            images,
            boxes.to(images.device),
            resolution=resolution,
            padding=round(self._augmentation.padding * side) if is_padded else 0,
            padding_mode=self._augmentation.padding_mode,
        )


class ResidentEvalBatches:
    """Evaluation batches of images that are in memory; see `EvalBatches`.

    The shorter side is resized to ``ceil(resolution / crop_ratio)`` with antialiasing and the
    centre is kept, rounded to uint8. The result is kept for the most recently used resolutions.

    The images are moved to the device once if they fit into ``max_device_bytes``, and so is what is
    kept of a resolution. What does not fit stays on the host, and batches are copied one by one.

    Args:
        arrays: Images and labels.
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation of images in [0, 1].
        batch_size: Images per batch and rank.
        crop_ratio: In (0, 1]; 1 uses the whole shorter side.
        device: Where batches are made.
        shard: This rank among all; each image belongs to one rank.
        max_cache_bytes: Bound on the resized images that are kept.
        max_device_bytes: Memory of a GPU that the images may take, and that the resized ones may
            take; None is an eighth of what is free there when they come.

    Raises:
        ConfigError: If ``batch_size`` or ``crop_ratio`` is out of range.
    """

    def __init__(
        self,
        arrays: ImageArrays,
        *,
        mean: Rgb,
        std: Rgb,
        batch_size: int,
        crop_ratio: float = 1.0,
        device: torch.device | str = "cpu",
        shard: Shard | None = None,
        max_cache_bytes: int = DEFAULT_CACHE_BYTES,
        max_device_bytes: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size} is not at least 1")
        if not 0 < crop_ratio <= 1:
            raise ConfigError(f"crop_ratio {crop_ratio} is not in (0, 1]")
        self.num_images = len(arrays)  # of all ranks
        mine = (shard or Shard()).eval_indices(len(arrays))
        self._device = torch.device(device)
        self._max_device_bytes = max_device_bytes
        images = arrays.images[mine]
        home = home_of(images.numel(), self._device, max_device_bytes=max_device_bytes)
        self._images = images.to(home)
        self._labels = arrays.labels[mine].to(self._device)
        self._normal = normalization(mean, std, self._device)
        self._batch_size = batch_size
        self._crop_ratio = crop_ratio
        self._max_cache_bytes = max_cache_bytes
        self._cache: collections.OrderedDict[int, Tensor] = collections.OrderedDict()

    def batches(self, resolution: int) -> Iterator[Batch]:
        """Yield normalised float32 channels_last images and int64 labels, the last part kept."""
        resized = self._resized(resolution)
        for start in range(0, len(self._images), self._batch_size):
            part = slice(start, start + self._batch_size)
            images = scale_and_shift(send(resized[part], self._device), *self._normal)
            yield images, self._labels[part]

    def calibration_batches(self, resolution: int) -> Iterator[Tensor]:
        """Yield the images of `batches` alone."""
        for images, _ in self.batches(resolution):
            yield images

    def _resized(self, resolution: int) -> Tensor:
        """Return all images at ``resolution``, uint8, from the cache if they are there."""
        if self._crop_ratio == 1.0 and self._images.shape[2:] == (resolution, resolution):
            return self._images
        if resolution in self._cache:
            self._cache.move_to_end(resolution)
            return self._cache[resolution]
        num_bytes = len(self._images) * 3 * resolution**2
        home = home_of(num_bytes, self._device, max_device_bytes=self._max_device_bytes)
        parts = [
            self._resize(self._images[start : start + _RESIZE_CHUNK], resolution).to(home)
            for start in range(0, len(self._images), _RESIZE_CHUNK)
        ]
        resized = torch.cat(parts) if parts else self._images
        self._cache[resolution] = resized
        # The newest entry stays whatever its size: it is in use anyway.
        while len(self._cache) > 1 and self._cached_bytes() > self._max_cache_bytes:
            self._cache.popitem(last=False)
        return resized

    def _cached_bytes(self) -> int:
        return sum(images.numel() for images in self._cache.values())

    def _resize(self, images: Tensor, resolution: int) -> Tensor:
        images = send(images, self._device)
        height, width = images.shape[2:]
        # Stored pixels per pixel of the image that would be resized and cropped: 1 where images
        # are stored as evaluation needs them, and then they are copied and not resampled.
        scale = min(height, width) / math.ceil(resolution / self._crop_ratio)
        ones = torch.ones(len(images), device=images.device)
        boxes = CropBoxes(
            top=ones * (round((height / scale - resolution) / 2) * scale),
            left=ones * (round((width / scale - resolution) / 2) * scale),
            height=ones * (resolution * scale),
            width=ones * (resolution * scale),
            flip=ones < 0,
        )
        values = resample(images, boxes, resolution=resolution)
        return values.round_().clamp_(0, 255).to(torch.uint8)
