"""Stage tables that supernet tests run over: every family, and small relatives of the large."""

from __future__ import annotations

from collections.abc import Callable

from onceforall.supernets.families import (
    dense_images,
    mobilenet_v3,
    proxylessnas,
    resnet50d,
    small_images,
)
from onceforall.supernets.spec import ResNetSpec, ResNetStage, SupernetSpec


def small_resnet() -> ResNetSpec:
    """Return a ResNet-D supernet with an eighth of the published widths."""
    rows = ((32, 1, 4), (64, 2, 4), (128, 2, 6), (256, 2, 4))
    return ResNetSpec(
        num_classes=10,
        resolutions=(32, 64),
        stem_width=16,
        stages=tuple(
            ResNetStage(width=width, stride=stride, num_blocks=n, depths=(n - 2, n - 1, n))
            for width, stride, n in rows
        ),
        expand_ratios=(0.2, 0.25, 0.35),
        width_mults=(0.65, 0.8, 1.0),
    )


SPECS: dict[str, Callable[[], SupernetSpec]] = {
    "mbv3_w1.0": lambda: mobilenet_v3(num_classes=10),
    "mbv3_w1.2": lambda: mobilenet_v3(num_classes=10, width_mult=1.2),
    "proxyless_w1.3": lambda: proxylessnas(num_classes=10),
    "resnet50": lambda: resnet50d(num_classes=10),
    "small_resnet": small_resnet,
    "small_images": lambda: small_images(num_classes=10),
    "ratio_1": lambda: small_images(num_classes=10, expand_ratios=(1, 2), depths=(1, 2)),
    "residual": lambda: dense_images(num_classes=10, widths=(8, 16, 24)),
    "residual_widths": lambda: dense_images(
        num_classes=10, widths=(16, 16, 32), width_mults=(0.5, 1.0), stem_stride=2
    ),
    "fused_mbconv": lambda: dense_images(
        block="fused_mbconv", num_classes=10, widths=(8, 8, 16), expand_ratios=(1, 2)
    ),
    "mixed_head": lambda: small_images(num_classes=10, mix_width=64, kernel_sizes=(3, 7)),
}
