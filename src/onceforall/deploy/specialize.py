"""From a supernet and an arch to a plain network that is ready to use."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from onceforall.arch import Arch
from onceforall.measure.calibrate import Estimator, Gather, recalibrate_bn
from onceforall.supernets.nets import ElasticNet, PlainNet


def specialize(
    net: ElasticNet,
    arch: Arch,
    *,
    calibration: Iterable[Tensor],
    estimator: Estimator = "published",
    gather: Gather | None = None,
) -> PlainNet:
    """Return a plain copy of one subnet with its own batch-norm statistics, in eval mode.

    Args:
        net: ElasticNet; not changed.
        arch: Subnet to copy.
        calibration: Normalised image batches ``(B, 3, R, R)`` at ``arch.resolution``, about 2,000
            images in all; without recalibration accuracy is near chance.
        estimator: See :func:`~onceforall.measure.calibrate.recalibrate_bn`.
        gather: Where several processes share the calibration images, see there.

    Raises:
        ArchError: If ``arch`` is not in the space.
        MeasurementError: If there is no calibration batch.
    """
    plain = net.extract(arch)
    recalibrate_bn(plain, calibration, estimator=estimator, gather=gather)
    return plain
