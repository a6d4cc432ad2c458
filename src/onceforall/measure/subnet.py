"""Accuracy of one subnet as it would ship: extracted, recalibrated, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from torch import Tensor

from onceforall.arch import Arch
from onceforall.measure.accuracy import Accuracy, evaluate
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.supernets.nets import ElasticNet

Calibration = Callable[[int], Iterable[Tensor]]


class LabelledImages(Protocol):
    """Images to count accuracy on, at any resolution."""

    def batches(self, resolution: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(images, labels)``."""
        ...


def evaluate_arch(
    net: ElasticNet, arch: Arch, *, calibration: Calibration, images: LabelledImages
) -> Accuracy:
    """Return the accuracy of one subnet at its own resolution, its batch norm recalibrated.

    Args:
        net: Supernet; not changed.
        arch: Subnet to extract.
        calibration: Gives image batches for a resolution in pixels.
        images: What to count on.
    """
    plain = net.extract(arch)
    recalibrate_bn(plain, calibration(arch.resolution))
    return evaluate(plain, images.batches(arch.resolution))
