"""What a training engine asks of a data set, whether it lives on the device or in files.

    for step, (images, labels) in train.iterate(epoch, start_step=k, resolution_of=size_of_step):
        ...
    for images, labels in valid.batches(resolution): ...
    for images in calibration.calibration_batches(resolution): ...

Images are float32 ``(B, 3, R, R)``, channels_last, normalised and on the device; labels are int64
``(B,)`` there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor

Batch = tuple[Tensor, Tensor]


class TrainBatches(Protocol):
    """Augmented batches of one rank; step ``t`` of epoch ``e`` is a pure function of (seed, e, t).

    Rank ``r`` of ``N`` ranks gets rows ``r * B .. (r + 1) * B - 1`` of the batch of ``N * B``
    images that a single rank would get.
    """

    @property
    def num_images(self) -> int:
        """Images of the whole set, over all ranks."""
        ...

    @property
    def batch_size(self) -> int:
        """Images per batch and rank; every batch is full."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch, the same on every rank; at least 1."""
        ...

    def iterate(
        self, epoch: int, *, start_step: int = 0, resolution_of: Callable[[int], int]
    ) -> Iterator[tuple[int, Batch]]:
        """Yield ``(step, (images, labels))`` for the steps of ``epoch`` from ``start_step``.

        Args:
            epoch: Epoch from 0.
            start_step: First step to yield: a restart goes on in the middle of an epoch.
            resolution_of: Size in pixels of the batch of a step.
        """
        ...


class EvalBatches(Protocol):
    """Images of this rank in a fixed order, each once, without augmentation."""

    @property
    def num_images(self) -> int:
        """Images of the whole set, over all ranks."""
        ...

    def batches(self, resolution: int) -> Iterator[Batch]:
        """Yield ``(images, labels)`` at ``resolution`` pixels; the last batch may be smaller."""
        ...


class CalibrationBatches(Protocol):
    """Images that recalibrate batch norm, the same on every call."""

    def calibration_batches(self, resolution: int) -> Iterator[Tensor]:
        """Yield image batches at ``resolution`` pixels."""
        ...
