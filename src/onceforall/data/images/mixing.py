"""Mixup and CutMix: batches whose images and targets are mixtures of two.

Each image is mixed with its neighbour in the batch. Images are on the device already; targets
become class probabilities. With several ranks each mixes its own part of a batch.

Shape legend: `B` images, `R` side in pixels, `K` classes.
"""

from __future__ import annotations

import dataclasses
import math
import random

from torch import Tensor
from torch.nn import functional as F

from onceforall.errors import ConfigError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """How strongly batches are mixed; where both are on, each batch draws one of them.

    Attributes:
        mixup_alpha: Parameter of the Beta distribution of the share; 0 for no mixup.
        cutmix_alpha: Likewise for CutMix.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} {getattr(self, name)} is not at least 0")


def mix(
    images: Tensor, labels: Tensor, mixing: Mixing, *, num_classes: int, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Mix a batch as ``mixing`` says.

    Args:
        images: ``(B, 3, R, R)`` float, left as they are.
        labels: ``(B,)`` int64.
        mixing: What to do.
        num_classes: Number of classes.
        rng: Source of the draws; name it by (seed, epoch, step).

    Returns:
        Mixed images and ``(B, K)`` float32 targets, each row summing to 1.
    """
    kinds = [mixup] * (mixing.mixup_alpha > 0) + [cutmix] * (mixing.cutmix_alpha > 0)
    targets = F.one_hot(labels, num_classes).float()
    if not kinds:
        return images, targets
    kind = rng.choice(kinds)
    alpha = mixing.mixup_alpha if kind is mixup else mixing.cutmix_alpha
    return kind(images, targets, share=rng.betavariate(alpha, alpha), rng=rng)


def mixup(
    images: Tensor, targets: Tensor, *, share: float, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Return ``share`` of each image and target plus the rest of its neighbour's.

    Source: Zhang et al., *mixup: Beyond Empirical Risk Minimization*, 2018, equation 1.
    """
    return _blend(images, share), _blend(targets, share)


def cutmix(
    images: Tensor, targets: Tensor, *, share: float, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Put a box of the neighbour into each image, of area ``1 - share`` before clipping.

    The box has the same place in the whole batch; targets are mixed by the area that it really
    covers.

    Source: Yun et al., *CutMix*, 2019, section 3.1 and appendix A.
    """
    height, width = images.shape[2:]
    half = math.sqrt(1 - share) / 2
    y, x = rng.random(), rng.random()
    top, bottom = (round(min(max(y + d, 0), 1) * height) for d in (-half, half))
    left, right = (round(min(max(x + d, 0), 1) * width) for d in (-half, half))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    covered = (bottom - top) * (right - left) / (height * width)
    return mixed, _blend(targets, 1 - covered)


def _blend(values: Tensor, share: float) -> Tensor:
    return values.roll(1, 0).lerp(values, share)
