"""What a worker process does: read the images of a batch.

A reader is a map-style data set whose items are whole batches: the loader hands it the keys of a
batch and takes what comes back as it is. Damaged files are part of the answer and not an
exception, which would cross the process border as a page of traceback.

Shape legend: `B` images, `R` side in pixels.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from onceforall.data.bundle import ImageFiles
from onceforall.data.images.augmentation import Augmentation
from onceforall.data.images.color import NUM_COLOR_DRAWS
from onceforall.data.images.device_ops import empty_batch
from onceforall.data.images.pixels import (
    NUM_BOX_DRAWS,
    Box,
    centre_box,
    random_box,
    read_centre,
    read_crop,
)
from onceforall.data.seeding import derive_seed, named_uniforms
from onceforall.errors import DataError

_FLIP, _COLOR = NUM_BOX_DRAWS, NUM_BOX_DRAWS + 1
_CUTOUT = _COLOR + NUM_COLOR_DRAWS
_NUM_DRAWS = _CUTOUT + 2

_MAX_REPLACEMENTS = 64


class TrainKey(NamedTuple):
    """One image of a training batch.

    Attributes:
        image: Place in the files.
        epoch: Epoch, which with the image names the random draws.
        resolution: Output side in pixels.
    """

    image: int
    epoch: int
    resolution: int


class EvalKey(NamedTuple):
    """One image of an evaluation batch: its place in the files and the output side."""

    image: int
    resolution: int


class RawTrainBatch(NamedTuple):
    """Cropped images before colour changes.

    Attributes:
        pixels: ``(B, R, R, 4)`` uint8 or a list of ``(R, R, 4)``; 255 in the last place.
        labels: ``(B,)`` int64.
        draws: ``(B, 10)`` float32 uniform in [0, 1): colour, then cutout row and column.
        bad: One line for each file that was replaced.
    """

    pixels: Tensor | list[Tensor]
    labels: Tensor
    draws: Tensor
    bad: list[str]


class RawEvalBatch(NamedTuple):
    """Centre crops.

    Attributes:
        pixels: ``(B, R, R, 3)`` uint8 RGB.
        labels: ``(B,)`` int64.
        bad: One line for each file that was left out.
    """

    pixels: Tensor
    labels: Tensor
    bad: list[str]


class TrainReader(Dataset[RawTrainBatch]):
    """Reads batches of random crops.

    Args:
        files: Image files.
        augmentation: Random variations.
        seed: Seed of the run.
        crop_ratio: Centre crop where the augmentation does not crop.
        stack: Whether the pixels become one tensor.
    """

    def __init__(
        self,
        files: ImageFiles,
        augmentation: Augmentation,
        *,
        seed: int,
        crop_ratio: float,
        stack: bool,
    ) -> None:
        self._files = files
        self._labels = files.labels.numpy()  # several times faster to index than a tensor
        self._augmentation = augmentation
        self._seed = seed
        self._crop_ratio = crop_ratio
        self._stack = stack
        self._policy = _make_policy(augmentation)

    def __getitems__(self, keys: list[TrainKey]) -> RawTrainBatch:
        """Read one batch; a damaged file is replaced by the next good one."""
        bad: list[str] = []
        images, labels = [], []
        # All draws before all images: between images, this little code would be cold.
        draws = [self._draw(key.image, key.epoch) for key in keys]
        for place, key in enumerate(keys):
            image = key.image
            for _ in range(_MAX_REPLACEMENTS):
                try:
                    pixels = self._read(image, key, draws[place])
                    break
                except DataError as error:
                    bad.append(str(error))
                    image = (image + 1) % len(self._files)
                    draws[place] = self._draw(image, key.epoch)
            else:
                # No good image in reach: the batch stays incomplete and the caller refuses it.
                return _failed_batch(bad)
            images.append(pixels)
            labels.append(int(self._labels[image]))
        return RawTrainBatch(
            pixels=_stack(images) if self._stack else images,
            labels=torch.tensor(labels, dtype=torch.int64),
            draws=torch.tensor([draw[_COLOR:] for draw in draws], dtype=torch.float32),
            bad=bad,
        )

    def _draw(self, image: int, epoch: int) -> list[float]:
        return named_uniforms(_NUM_DRAWS, "image", self._seed, epoch, image)

    def _read(self, image: int, key: TrainKey, draw: list[float]) -> Tensor:
        def choose(width: int, height: int) -> Box:
            if self._augmentation.crop == "resized":
                return random_box(width, height, self._augmentation, draw)
            return centre_box(width, height, resolution=key.resolution, crop_ratio=self._crop_ratio)

        pixels = read_crop(self._files.path(image), choose, resolution=key.resolution)
        if self._augmentation.flip and draw[_FLIP] < 0.5:
            # Four bytes are one number: a row is mirrored without touching its channels.
            pixels = pixels.view(torch.int32).flip(1).view(torch.uint8)
        if self._policy is not None:
            seed = derive_seed("policy", self._seed, key.epoch, image)
            pixels = _apply_policy(self._policy, pixels, seed)
        return pixels


class EvalReader(Dataset[RawEvalBatch]):
    """Reads batches of centre crops.

    Args:
        files: Image files.
        crop_ratio: Side of the crop over the shorter side of the resized image.
    """

    def __init__(self, files: ImageFiles, *, crop_ratio: float) -> None:
        self._files = files
        self._labels = files.labels.numpy()  # several times faster to index than a tensor
        self._crop_ratio = crop_ratio

    def __getitems__(self, keys: list[EvalKey]) -> RawEvalBatch:
        """Read one batch; damaged files are left out."""
        bad: list[str] = []
        images, labels = [], []
        for key in keys:
            try:
                image = read_centre(
                    self._files.path(key.image),
                    resolution=key.resolution,
                    crop_ratio=self._crop_ratio,
                )
            except DataError as error:
                bad.append(str(error))
                continue
            images.append(image)
            labels.append(int(self._labels[key.image]))
        side = keys[0].resolution
        pixels = np.stack(images) if images else np.empty((0, side, side, 3), dtype=np.uint8)
        return RawEvalBatch(
            pixels=torch.from_numpy(pixels),
            labels=torch.tensor(labels, dtype=torch.int64),
            bad=bad,
        )


class _Policy(Protocol):
    def __call__(self, image: Tensor) -> Tensor: ...


def _make_policy(augmentation: Augmentation) -> _Policy | None:
    if augmentation.policy == "none":
        return None
    from torchvision.transforms import InterpolationMode, v2

    maker = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}
    policy: _Policy = maker[augmentation.policy](interpolation=InterpolationMode.BILINEAR)
    return policy


def _apply_policy(policy: _Policy, pixels: Tensor, seed: int) -> Tensor:
    """Apply a torchvision policy, which draws from the global generator, and restore that."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also reach for a GPU.
        torch.default_generator.manual_seed(seed)
        changed = policy(pixels[..., :3].permute(2, 0, 1))
    result = torch.full_like(pixels, 255)
    result[..., :3] = changed.permute(1, 2, 0)
    return result


def _stack(images: list[Tensor]) -> Tensor:
    shape = (len(images), *images[0].shape)
    return torch.stack(images, out=empty_batch(shape, torch.uint8, images[0].device))


def _failed_batch(bad: list[str]) -> RawTrainBatch:
    nothing = torch.empty(0)
    return RawTrainBatch(pixels=[], labels=nothing, draws=nothing, bad=bad)
