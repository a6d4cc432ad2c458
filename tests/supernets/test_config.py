"""The published ``net.config``: read in both spellings, written, and refused where unknown."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from typing import Any

import pytest

from onceforall.blueprint import Blueprint, Identity, Linear, MBConv
from onceforall.errors import ArchError, BlueprintError, ConfigError
from onceforall.published_archs import arch_from_published
from onceforall.supernets.families import proxylessnas, small_images
from onceforall.supernets.published.config_read import blueprint_from_config
from onceforall.supernets.published.config_write import config_from_blueprint
from onceforall.supernets.published.recover import arch_from_blueprint
from onceforall.supernets.static import build
from onceforall.supernets.static_families import (
    mobilenet_v2,
    mobilenet_v3_large,
    resnet50,
    resnet50d,
)
from onceforall.zoo.entries import zoo_entries
from tests.shared_data import shared_data
from tests.supernets.families import SPECS

DENSE = ("residual", "residual_widths", "fused_mbconv")  # kinds of blocks of our own
STATICS = {
    "mobilenet_v3_large": mobilenet_v3_large(),
    "mobilenet_v2": mobilenet_v2(),
    "resnet50": resnet50(),
    "resnet50d": resnet50d(),
    "proxyless_gpu": zoo_entries()["proxyless_gpu"].blueprint(),  # has skipped blocks
}


def plans(name: str) -> list[Blueprint]:
    spec = SPECS[name]()
    rng = random.Random(0)
    archs = [spec.space.smallest, spec.space.largest, *(spec.space.sample(rng) for _ in range(5))]
    return [spec.blueprint(arch) for arch in archs]


# -- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["current", "legacy"])
@pytest.mark.parametrize("name", [n for n in SPECS if n not in ("mixed_head", *DENSE)])
def test_subnets_survive_the_round_trip(name: str, spelling: Any) -> None:
    for plan in plans(name):
        config = json.loads(json.dumps(config_from_blueprint(plan, spelling=spelling)))
        untouched = copy.deepcopy(config)
        assert blueprint_from_config(config) == plan
        assert blueprint_from_config(config) == plan  # a second time: nothing was consumed
        assert config == untouched


@pytest.mark.parametrize("name", DENSE)
def test_blocks_of_our_own_have_no_published_configuration(name: str) -> None:
    with pytest.raises(ConfigError, match="a published configuration has no block like"):
        config_from_blueprint(plans(name)[0])


@pytest.mark.parametrize("spelling", ["current", "legacy"])
@pytest.mark.parametrize("name", STATICS)
def test_static_networks_survive_the_round_trip(name: str, spelling: Any) -> None:
    plan = STATICS[name]
    text = json.dumps(config_from_blueprint(plan, spelling=spelling))
    assert blueprint_from_config(json.loads(text)) == plan


def test_the_published_example_is_what_we_write() -> None:
    spec = SPECS["mbv3_w1.0"]()
    plan = spec.blueprint(arch_from_published(spec.space, {"ks": 5, "e": 4, "d": 3}))
    config = config_from_blueprint(plan)
    assert list(config) == [
        "name", "bn", "first_conv", "blocks", "final_expand_layer", "feature_mix_layer",
        "classifier",
    ]  # fmt: skip
    conv = {
        "name": "MBConvLayer", "in_channels": 16, "out_channels": 24, "kernel_size": 5,
        "stride": 2, "expand_ratio": 4, "mid_channels": 64, "act_func": "relu", "use_se": False,
    }  # fmt: skip
    identity = {
        "name": "IdentityLayer", "in_channels": 24, "out_channels": 24, "use_bn": False,
        "act_func": None, "dropout_rate": 0, "ops_order": "weight_bn_act",
    }  # fmt: skip
    assert config["blocks"][1] == {"name": "ResidualBlock", "conv": conv, "shortcut": None}
    assert config["blocks"][2] == {
        "name": "ResidualBlock",
        "conv": {**conv, "in_channels": 24, "mid_channels": 96, "stride": 1},
        "shortcut": identity,
    }


def test_a_ratio_of_1_with_an_expansion_is_not_taken_for_none() -> None:
    spec = SPECS["ratio_1"]()
    plan = spec.blueprint(spec.space.uniform(expand_ratio=1))
    again = blueprint_from_config(config_from_blueprint(plan))
    assert all(isinstance(b, MBConv) and b.has_expansion for b in again.blocks)


# -- the released files ---------------------------------------------------------------------------


def released() -> list[tuple[str, str]]:
    rows = []
    for entry in zoo_entries().values():
        if entry.arch is not None:
            folder = entry.id.replace("@", "-")
            rows.append((entry.id, f"published/ofa_specialized/{folder}/net.config"))
        elif entry.kind == "proxylessnas":
            rows.append((entry.id, f"published/proxylessnas/{entry.id}.config"))
    return rows


@pytest.mark.parametrize(("net_id", "path"), released())
def test_a_released_configuration_is_our_entry_and_what_we_write(net_id: str, path: str) -> None:
    config = json.loads(shared_data(path).read_text())
    untouched = copy.deepcopy(config)
    entry = zoo_entries()[net_id]
    plan = blueprint_from_config(config)
    assert plan == entry.blueprint()
    assert config == untouched
    if entry.arch is None:
        return  # the oldest files leave fields out
    assert config_from_blueprint(plan, spelling="legacy") == config
    run_config = json.loads(shared_data(path.replace("net.config", "run.config")).read_text())
    assert run_config == {"image_size": entry.resolution}


# -- from a network back to its arch --------------------------------------------------------------


@pytest.mark.parametrize("name", ["mbv3_w1.2", "proxyless_w1.3", "resnet50", "small_images"])
def test_the_arch_of_a_subnet_is_found(name: str) -> None:
    spec = SPECS[name]()
    rng = random.Random(1)
    for _ in range(10):
        arch = spec.space.sample(rng)
        plan = spec.blueprint(arch)
        found = arch_from_blueprint(spec, plan, resolution=arch.resolution)
        assert spec.blueprint(found) == plan
        if not spec.space.width_sites:  # two multipliers may give the same channels
            assert found == arch


def test_a_network_that_is_no_subnet_has_no_arch() -> None:
    spec = SPECS["mbv3_w1.0"]()
    with pytest.raises(ArchError, match="stages of"):
        arch_from_blueprint(spec, resnet50d(), resolution=224)
    with pytest.raises(ArchError):
        arch_from_blueprint(spec, mobilenet_v3_large(), resolution=224)
    plan = spec.blueprint(spec.space.largest)
    wide = replace(plan, norm_eps=1e-3)
    with pytest.raises(ArchError, match="is not a subnet of the space; the nearest is 224px"):
        arch_from_blueprint(spec, wide, resolution=224)


# -- variants that old and foreign files have -----------------------------------------------------


def proxyless_config() -> dict[str, Any]:
    spec = proxylessnas(width_mult=1.0)
    return config_from_blueprint(spec.blueprint(spec.space.smallest))


def test_missing_fields_take_the_published_defaults() -> None:
    config = proxyless_config()
    expected = blueprint_from_config(config)
    del config["bn"]
    for block in config["blocks"]:
        conv = block["conv"]
        for field in ("act_func", "use_se", "mid_channels"):
            del conv[field]
        if block["shortcut"] is not None:
            block["shortcut"]["in_channels"] = [block["shortcut"]["in_channels"]]
            block["shortcut"]["out_channels"] = [block["shortcut"]["out_channels"]]
    for field in ("dilation", "groups", "has_shuffle", "dropout_rate", "ops_order"):
        del config["first_conv"][field]
    assert blueprint_from_config(config) == expected


def test_a_middle_width_that_is_not_said_is_rounded_to_an_integer() -> None:
    config = proxyless_config()
    conv = config["blocks"][2]["conv"]
    conv.update(mid_channels=None, expand_ratio=2.55)
    assert blueprint_from_config(config).blocks[2].mid_channels == round(24 * 2.55)


def test_zero_layers_pass_their_input_on() -> None:
    config = proxyless_config()
    config["blocks"][2]["conv"] = {"name": "ZeroLayer", "stride": 1}
    plan = blueprint_from_config(config)
    assert plan.blocks[2] == Identity()
    assert "blocks.3.conv.point_linear.conv.weight" in build(plan).published_state_dict()


def test_a_network_without_feature_mix_layer() -> None:
    config = proxyless_config()
    config["feature_mix_layer"] = None
    config["classifier"]["in_features"] = 320
    plan = blueprint_from_config(config)
    assert [type(layer).__name__ for layer in plan.head] == ["GlobalPool", "Linear"]
    assert config_from_blueprint(plan) == config


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        ((), {"name": "PyramidTreeNet"}, "name 'PyramidTreeNet' is not one of MobileNetV3"),
        ((), {"extra": 1}, "configuration: unknown field 'extra'"),
        ((), {"final_expand_layer": None}, "unknown field 'final_expand_layer'"),
        (("bn",), {"ws_eps": 1e-5}, "weight standardisation"),
        (("bn",), {"gn_channel_per_group": 8}, "bn: unknown field 'gn_channel_per_group'"),
        (("first_conv",), {"has_shuffle": True}, "first_conv: has_shuffle True is not supported"),
        (("first_conv",), {"dilation": 2}, "dilation 2 is not supported, only 1"),
        (("first_conv",), {"act_func": "gelu"}, "act_func 'gelu' is not one of"),
        (("first_conv",), {"kernel_size": [3, 5]}, r"kernel_size \[3, 5\] is not one odd number"),
        (("first_conv",), {"name": "LinearLayer"}, "LinearLayer where a ConvLayer belongs"),
        (("blocks", 1), {"name": "TransitionBlock"}, r"blocks\.1: layer 'TransitionBlock' is not"),
        (("blocks", 1, "conv"), {"name": "DynamicMBConvLayer"}, "is a supernet's layer"),
        (("blocks", 1, "conv"), {"groups": 2}, r"blocks\.1\.conv: groups 2 is not supported"),
        (("blocks", 1, "conv"), {"shuffle": 2}, r"blocks\.1\.conv: unknown field 'shuffle'"),
        (("blocks", 2, "shortcut"), {"in_channels": 7}, "IdentityLayer from 7 to 24 channels"),
        (("classifier",), {"use_bn": True}, "classifier: use_bn True is not supported"),
    ],
)
def test_what_is_not_known_is_refused_with_its_place(
    place: tuple[Any, ...], change: dict[str, Any], message: str
) -> None:
    config: Any = proxyless_config()
    part = config
    for step in place:
        part = part[step]
    part.update(change)
    with pytest.raises(ConfigError, match=message):
        blueprint_from_config(config)


@pytest.mark.parametrize("missing", ["blocks", "first_conv", "classifier"])
def test_missing_parts_are_named(missing: str) -> None:
    config = proxyless_config()
    del config[missing]
    with pytest.raises(ConfigError, match=f"no field '{missing}'"):
        blueprint_from_config(config)


def test_layers_that_do_not_fit_one_another_are_refused() -> None:
    config = proxyless_config()
    config["classifier"]["in_features"] = 99
    with pytest.raises(BlueprintError, match="follows a layer with 1280 output channels"):
        blueprint_from_config(config)


def test_what_the_format_cannot_say_is_refused() -> None:
    spec = proxylessnas(width_mult=1.0)
    plan = spec.blueprint(spec.space.smallest)
    silu = replace(plan, stem=(replace(plan.stem[0], activation="silu"),))
    with pytest.raises(ConfigError, match="no activation silu"):
        config_from_blueprint(silu)
    odd = replace(plan, blocks=(*plan.blocks[:-1], replace(plan.blocks[-1], se_channels=3)))
    with pytest.raises(ConfigError, match="squeeze-excite of 3 channels: the published format has"):
        config_from_blueprint(odd)
    spec = small_images(num_classes=10, mix_width=64, expand_width=0)
    with pytest.raises(ConfigError, match="has no head of GlobalPool, Conv, Linear"):
        config_from_blueprint(spec.blueprint(spec.space.smallest))
    stem_twice = replace(plan, stem=(*plan.stem, replace(plan.stem[0], in_channels=32)))
    with pytest.raises(ConfigError, match="has one stem convolution"):
        config_from_blueprint(stem_twice)
    resnet = resnet50()
    mixed = replace(resnet, blocks=(replace(resnet.blocks[0], downsample="avgpool_conv"),
                                    *resnet.blocks[1:]))  # fmt: skip
    with pytest.raises(ConfigError, match="downsample in several ways: avgpool_conv, conv"):
        config_from_blueprint(mixed)


def test_classes_and_dropout_do_not_matter_for_the_arch() -> None:
    spec = SPECS["mbv3_w1.0"]()
    plan = spec.blueprint(spec.space.smallest)
    *body, last = plan.head
    assert isinstance(last, Linear)
    other = replace(plan, head=(*body, replace(last, out_features=7, dropout=0.5)))
    assert arch_from_blueprint(spec, other, resolution=128) == spec.space.smallest
