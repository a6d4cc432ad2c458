"""Parameters, multiply-accumulates, tensors and space sizes of the published networks, exact."""

from __future__ import annotations

import pytest

from onceforall.measure.costs import count_macs, count_params
from onceforall.published_archs import arch_from_published
from onceforall.supernets.published.keys import static_keys, supernet_keys
from onceforall.supernets.static_families import (
    mobilenet_v2,
    mobilenet_v3_large,
    resnet50,
    resnet50d,
)
from onceforall.supernets.supernet import Supernet
from tests.golden.conftest import SPECS

# name: parameters, numbers in buffers, tensors, parameters of kernel transforms
SUPERNETS = {
    "mbv3_w1.0": (7_678_880, 41_888, 475, 14_120),
    "mbv3_w1.2": (10_715_752, 50_896, 475, 14_120),
    "proxyless_w1.3": (7_956_882, 64_083, 446, 14_826),
    "proxyless_w1.0": (5_118_162, 48_739, 446, 14_826),
    "proxyless_w1.0_google": (4_355_282, 42_915, 446, 14_826),
    "resnet50": (48_105_992, 67_197, 368, 0),
}
MAX, MID, MIN = {"ks": 7, "e": 6, "d": 4}, {"ks": 5, "e": 4, "d": 3}, {"ks": 3, "e": 3, "d": 2}
# (name, setting, parameters, multiply-accumulates at 224)
SUBNETS = [
    ("mbv3_w1.0", MAX, 7_664_760, 566_170_656),
    ("mbv3_w1.0", MID, 4_551_792, 250_746_944),
    ("mbv3_w1.0", MIN, 3_410_792, 121_278_672),
    ("mbv3_w1.2", MAX, 10_701_632, 843_101_040),
    ("mbv3_w1.2", MID, 6_245_312, 385_659_168),
    ("mbv3_w1.2", MIN, 4_602_456, 193_078_200),
    ("proxyless_w1.3", MAX, 7_942_056, 1_004_908_032),
    ("proxyless_w1.3", MID, 5_053_864, 486_974_112),
    ("proxyless_w1.3", MIN, 3_718_832, 265_526_256),
    ("proxyless_w1.0", MAX, 5_103_336, 606_590_720),
    ("proxyless_w1.0", MID, 3_312_936, 286_405_120),
    ("proxyless_w1.0", MIN, 2_500_632, 154_160_000),
    ("proxyless_w1.0_google", MAX, 4_340_456, 525_973_568),
    ("proxyless_w1.0_google", MID, 2_945_464, 249_161_984),
    ("proxyless_w1.0_google", MIN, 2_320_168, 136_609_376),
    ("resnet50", {"d": 2, "e": 0.35, "w": 2}, 48_105_992, 7_491_643_904),
    ("resnet50", {"d": [2, 1, 1, 1, 1], "e": 0.25, "w": 2}, 24_179_016, 3_892_092_928),
    ("resnet50", {"d": 0, "e": 0.2, "w": 0}, 6_539_280, 962_192_128),
]
RESOLUTIONS = [  # MobileNetV3 w1.0: resolution, largest, smallest
    (128, 188_248_320, 41_476_224),
    (160, 291_318_048, 63_240_528),
    (192, 417_292_160, 89_841_344),
]
STATICS = {  # parameters, multiply-accumulates at 224, tensors
    "MobileNetV3Large": (mobilenet_v3_large(), 5_481_752, 216_589_760, 311),
    "MobileNetV3Large w1.2": (mobilenet_v3_large(width_mult=1.2), 7_562_728, 321_960_776, 311),
    "teacher": (
        mobilenet_v3_large(kernel_size=7, expand_ratio=6, depth=4), 7_664_760, 566_170_656, 435
    ),
    "MobileNetV2": (mobilenet_v2(), 3_504_872, 300_774_272, 314),
    "ResNet50": (resnet50(), 25_557_032, 4_089_184_256, 320),
    "ResNet50D": (resnet50d(), 25_576_264, 4_328_824_832, 332),
}  # fmt: skip


@pytest.mark.parametrize("name", SUPERNETS)
def test_a_supernet_has_the_published_tensors(name: str) -> None:
    params, buffers, tensors, transforms = SUPERNETS[name]
    net = Supernet(SPECS[name]())
    state = net.published_state_dict()
    assert len(state) == len(net.state_dict()) == tensors
    assert sum(p.numel() for p in net.parameters()) == params
    assert sum(t.numel() for k, t in state.items() if k.endswith("_matrix")) == transforms
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(t.numel() for k, t in state.items() if k.endswith(statistics)) == buffers


@pytest.mark.parametrize(("name", "setting", "params", "macs"), SUBNETS)
def test_a_subnet_has_the_published_costs(
    name: str, setting: dict[str, object], params: int, macs: int
) -> None:
    spec = SPECS[name]()
    plan = spec.blueprint(arch_from_published(spec.space, setting))
    assert (count_params(plan), count_macs(plan, resolution=224)) == (params, macs)


@pytest.mark.parametrize(("resolution", "largest", "smallest"), RESOLUTIONS)
def test_costs_follow_the_resolution(resolution: int, largest: int, smallest: int) -> None:
    spec = SPECS["mbv3_w1.0"]()
    plans = (spec.blueprint(arch) for arch in (spec.space.largest, spec.space.smallest))
    assert [count_macs(p, resolution=resolution) for p in plans] == [largest, smallest]


@pytest.mark.parametrize("name", STATICS)
def test_a_static_network_has_the_published_costs_and_tensors(name: str) -> None:
    plan, params, macs, tensors = STATICS[name]
    assert (count_params(plan), count_macs(plan, resolution=224)) == (params, macs)
    assert len(static_keys(plan)) == tensors


def test_the_teachers_are_the_largest_subnets() -> None:
    for name, teacher in (
        ("mbv3_w1.0", mobilenet_v3_large(kernel_size=7, expand_ratio=6, depth=4, dropout=0)),
        ("resnet50", resnet50d(extra_depth=2, expand_ratio=0.35)),
    ):
        spec = SPECS[name]()
        assert spec.blueprint(spec.space.largest) == teacher


def test_spaces_have_the_published_sizes() -> None:
    sizes = {}
    for name in ("mbv3_w1.0", "proxyless_w1.3", "resnet50"):
        space = SPECS[name]().space
        sizes[name] = space.size // len(space.resolutions)
    blocks = 9**2 + 9**3 + 9**4
    assert sizes["mbv3_w1.0"] == blocks**5
    assert sizes["proxyless_w1.3"] == 9 * blocks**5
    # three ratios a block, three depths, three multipliers for each of six widths, the stem switch
    assert sizes["resnet50"] == 2 * 3**6 * ((3**2 + 3**3 + 3**4) ** 3 * (3**4 + 3**5 + 3**6))


def test_published_keys_are_in_published_order() -> None:
    keys = list(supernet_keys(SPECS["mbv3_w1.0"]()).values())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    block = "blocks.5.conv"
    expected = [
        f"{block}.inverted_bottleneck.conv.conv.weight",
        *(f"{block}.inverted_bottleneck.bn.bn.{n}" for n in norm),
        f"{block}.depth_conv.conv.5to3_matrix",
        f"{block}.depth_conv.conv.7to5_matrix",
        f"{block}.depth_conv.conv.conv.weight",
        *(f"{block}.depth_conv.bn.bn.{n}" for n in norm),
        f"{block}.depth_conv.se.fc.reduce.weight",
        f"{block}.depth_conv.se.fc.reduce.bias",
        f"{block}.depth_conv.se.fc.expand.weight",
        f"{block}.depth_conv.se.fc.expand.bias",
        f"{block}.point_linear.conv.conv.weight",
        *(f"{block}.point_linear.bn.bn.{n}" for n in norm),
    ]
    assert [key for key in keys if key.startswith(f"{block}.")] == expected
    assert keys[0] == "first_conv.conv.weight"
    assert keys[6] == "blocks.0.conv.depth_conv.conv.weight"  # block 0 is not elastic
    assert keys[-3:] == ["feature_mix_layer.conv.weight", *(f"classifier.linear.{n}" for n in
                                                            ("weight", "bias"))]  # fmt: skip
    resnet = list(supernet_keys(SPECS["resnet50"]()).values())
    for key in (
        "input_stem.0.conv.conv.weight",
        "input_stem.1.conv.conv.conv.weight",
        "input_stem.1.conv.bn.bn.running_var",
        "input_stem.2.bn.bn.bias",
        "blocks.17.conv3.conv.conv.weight",
        "blocks.14.downsample.conv.conv.weight",
        "classifier.linear.linear.bias",
    ):
        assert key in resnet
    assert {k.split(".")[1] for k in resnet if ".downsample." in k} == {"0", "4", "8", "14"}
    static = list(static_keys(resnet50d()).values())
    assert "input_stem.1.conv.conv.weight" in static
    assert "input_stem.1.conv.bn.weight" in static
    mixes = [k for k in supernet_keys(SPECS["proxyless_w1.3"]()).values() if "feature_mix" in k]
    assert mixes == ["feature_mix_layer.conv.weight", *(f"feature_mix_layer.bn.{n}" for n in norm)]
