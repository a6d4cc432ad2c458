"""Outputs of every published network, filled by the recipe, against the published system's."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from onceforall.published_archs import arch_from_published
from onceforall.supernets.static import build
from onceforall.supernets.static_families import (
    mobilenet_v2,
    mobilenet_v3_large,
    resnet50,
    resnet50d,
)
from onceforall.supernets.supernet import Supernet
from tests.golden.recipe import fill, hashed, images

Filled = Callable[[str], Supernet]
Row = tuple[tuple[float, float, float, float], float, float]  # y[0, :4], sum, mean abs

MIXED = {"ks": [3, 5, 7, 3, 5] * 4, "e": [3, 4, 6, 6] * 5, "d": [2, 3, 4, 3, 2]}
MIXED_RESNET = {
    "d": [0, 0, 1, 2, 0],
    "e": [0.2, 0.25, 0.35] * 6,
    "w": [0, 2, 1, 0, 2, 1],
}
SUPERNET_ROWS: list[tuple[str, dict[str, Any], Row]] = [
    ("mbv3_w1.0", {"ks": 7, "e": 6, "d": 4},
     ((-89.745442, 52.156273, -61.379699, -154.804617), -2058.026805, 49.9376767)),
    ("mbv3_w1.0", {"ks": 5, "e": 4, "d": 3},
     ((0.092742, 0.059167, 0.115265, 0.075319), -6.201348, 0.0645099)),
    ("mbv3_w1.0", {"ks": 3, "e": 3, "d": 2},
     ((0.112166, 0.066377, 0.097168, 0.086183), -6.042955, 0.0605639)),
    ("mbv3_w1.0", MIXED,
     ((0.113212, 0.070734, 0.097059, 0.084885), -5.781283, 0.0603402)),
    ("mbv3_w1.0", {"seed": 0},
     ((0.096729, 0.039327, 0.032912, 0.077861), -6.411176, 0.0690026)),
    ("mbv3_w1.2", {"ks": 7, "e": 6, "d": 4},
     ((-11.531118, -7.512502, -94.260787, -60.456731), 3806.021451, 54.1599819)),
    ("mbv3_w1.2", {"ks": 5, "e": 4, "d": 3},
     ((0.025180, 0.061290, 0.085931, 0.118683), -3.423166, 0.0632129)),
    ("mbv3_w1.2", {"ks": 3, "e": 3, "d": 2},
     ((-0.014998, 0.056826, 0.074944, 0.087510), -0.219971, 0.0586895)),
    ("proxyless_w1.3", {"ks": 7, "e": 6, "d": 4},
     ((-0.382984, 0.833032, -1.188360, -0.975712), 21.583119, 0.4821455)),
    ("proxyless_w1.3", {"ks": 5, "e": 4, "d": 3},
     ((-0.187361, 0.434215, -0.534943, -0.036037), -3.647488, 0.2082924)),
    ("proxyless_w1.3", {"ks": 3, "e": 3, "d": 2},
     ((-0.035188, 0.184239, -0.047887, -0.044918), -13.808712, 0.0788568)),
    ("proxyless_w1.0_google", {"ks": 5, "e": 4, "d": 3},
     ((0.033998, 0.283388, -0.173432, -0.244011), 3.807836, 0.2177263)),
    ("resnet50", {"d": 2, "e": 0.35, "w": 2},
     ((-1773.768265, -1132.060393, 2705.168846, 847.611104), 135105.662795, 1281.3274888)),
    ("resnet50", {"d": [2, 1, 1, 1, 1], "e": 0.25, "w": 1},
     ((-6.484897, -6.670367, 5.825578, 4.289554), 78.938219, 4.3472550)),
    ("resnet50", MIXED_RESNET,
     ((-9.640087, 7.367097, 10.205780, -1.780523), 297.448694, 5.0410616)),
    ("resnet50", {"d": 0, "e": 0.2, "w": 0},
     ((-0.798712, -0.348761, 0.666822, 0.406875), 5.848047, 0.3775644)),
]  # fmt: skip
STATIC_ROWS = {
    "MobileNetV3Large": (mobilenet_v3_large(),
     ((-10.857997, 17.439636, -28.796915, -46.262029), 637.442668, 20.1794741)),
    "teacher": (mobilenet_v3_large(kernel_size=7, expand_ratio=6, depth=4, dropout=0),
     ((-52.928082, 30.371476, -129.864077, -66.435155), -1184.996356, 36.6511280)),
    "MobileNetV2": (mobilenet_v2(),
     ((0.680461, 1.407557, 0.871941, -1.166619), -0.353525, 1.0039479)),
    "ResNet50D": (resnet50d(),
     ((-53.256660, -162.834062, -410.371550, -918.321368), 70773.441428, 1102.9187966)),
    "ResNet50": (resnet50(),
     ((130.451635, 135.330177, -391.760928, -622.670875), 46982.935453, 787.0718101)),
}  # fmt: skip


def assert_row(logits: torch.Tensor, row: Row) -> None:
    first, total, mean_abs = row
    # Printed with six and seven decimals: half a unit of the last digit on top of 1e-6 relative.
    assert logits[0, :4].tolist() == pytest.approx(first, rel=1e-6, abs=6e-7)
    assert logits.sum().item() == pytest.approx(total, rel=1e-6, abs=6e-7)
    assert logits.abs().mean().item() == pytest.approx(mean_abs, rel=1e-6, abs=6e-8)


def test_the_hash_gives_its_check_values() -> None:
    assert zlib.crc32(b"input") == 3626513111
    np.testing.assert_allclose(
        hashed("input", 4), (-0.759068651, 0.855245903, 0.477705097, -0.277921037), atol=5e-10
    )


@pytest.mark.parametrize(("name", "setting", "row"), SUPERNET_ROWS, ids=lambda v: str(v)[:40])
@torch.no_grad()
def test_a_supernet_computes_the_published_logits(
    filled: Filled, name: str, setting: dict[str, Any], row: Row
) -> None:
    net = filled(name)
    if "seed" in setting:
        arch = net.space.sample(random.Random(setting["seed"]))
    else:
        arch = arch_from_published(net.space, setting)
    assert_row(net(images(2, 3, 64, 64), arch), row)


@pytest.mark.parametrize("name", STATIC_ROWS)
@torch.no_grad()
def test_a_static_network_computes_the_published_logits(name: str) -> None:
    plan, row = STATIC_ROWS[name]
    assert_row(fill(build(plan))(images(2, 3, 64, 64)), row)


@torch.no_grad()
def test_float32_is_within_a_thousandth_of_the_mean(filled: Filled) -> None:
    net = filled("mbv3_w1.0")
    arch = arch_from_published(net.space, {"ks": 5, "e": 4, "d": 3})
    exact = net(images(2, 3, 64, 64), arch)
    single = net.extract(arch).float()(images(2, 3, 64, 64).float())
    assert (single.double() - exact).abs().max() < 1e-3 * exact.abs().mean()
