"""Search spaces that tests of several layers share."""

from __future__ import annotations

from onceforall.genes import StageChoices
from onceforall.space import SearchSpace
from onceforall.supernets.families import (
    mobilenet_v3,
    proxylessnas,
    resnet50d,
    small_images,
)

SPACES: dict[str, SearchSpace] = {
    "mbv3": mobilenet_v3().space,
    "proxyless": proxylessnas().space,
    "resnet": resnet50d().space,
    "small": small_images(num_classes=10).space,
}

# Small enough to list: every axis is there, one stage is rigid.
TINY = SearchSpace(
    resolutions=(8, 12),
    stem_depths=(0, 1),
    stem_width_mults=((0.5, 1.0),),
    stages=(
        StageChoices(
            num_blocks=3,
            depths=(1, 3),
            kernel_sizes=(3, 5),
            expand_ratios=(2, 3),
            width_mults=(0.5, 1.0),
        ),
        StageChoices(num_blocks=1, depths=(1,), kernel_sizes=(3,), expand_ratios=(1, 2)),
    ),
)
SPACES["tiny"] = TINY
