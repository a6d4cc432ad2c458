"""Writing blueprints as published ``net.config`` JSON, in either spelling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from onceforall.blueprint import (
    Activation,
    Blueprint,
    Bottleneck,
    Conv,
    GlobalPool,
    Identity,
    Layer,
    Linear,
    MaxPool,
    MBConv,
    make_divisible,
)
from onceforall.errors import ConfigError
from onceforall.supernets.published.keys import head_names

Spelling = Literal["current", "legacy"]
Json = dict[str, Any]


def config_from_blueprint(plan: Blueprint, *, spelling: Spelling = "current") -> Json:
    """Return the published configuration of a static network, ready for ``json.dumps``.

    Args:
        plan: The network.
        spelling: ``"legacy"`` is what the released files have, and what readers of before
            November 2020 take.

    Raises:
        ConfigError: If the published format cannot say what the network is.
    """
    resnet = any(isinstance(layer, Bottleneck) for layer in plan.blocks)
    names = head_names(plan)
    config: Json = {"name": "ResNets" if resnet else "ProxylessNASNets"}
    if "final_expand_layer" in names:
        config["name"] = "MobileNetV3"
    config["bn"] = {"momentum": plan.norm_momentum, "eps": plan.norm_eps}
    if spelling == "current":
        config["bn"]["ws_eps"] = None
    if resnet:
        config["input_stem"] = _resnet_stem(plan.stem, spelling)
    else:
        config["first_conv"] = _first_conv(plan.stem)
    config["blocks"] = _blocks(plan, spelling)
    head: Json = {"feature_mix_layer": None} if config["name"] == "ProxylessNASNets" else {}
    for name, layer in zip(names, plan.head, strict=True):
        if isinstance(layer, Conv):
            head[name] = _conv(layer)
        elif isinstance(layer, Linear):
            head[name] = _linear(layer)
    _check_head(config["name"], plan.head)
    return {**config, **head}


def _check_head(net_name: str, head: Sequence[Layer]) -> None:
    kinds = [type(layer) for layer in head]
    allowed: dict[str, list[list[type]]] = {
        "MobileNetV3": [[Conv, GlobalPool, Conv, Linear]],
        "ProxylessNASNets": [[Conv, GlobalPool, Linear], [GlobalPool, Linear]],
        "ResNets": [[GlobalPool, Linear]],
    }
    if kinds not in allowed[net_name]:
        raise ConfigError(
            f"a published {net_name} configuration has no head of "
            f"{', '.join(kind.__name__ for kind in kinds)}"
        )


def _first_conv(stem: Sequence[Layer]) -> Json:
    if len(stem) != 1 or not isinstance(stem[0], Conv) or stem[0].residual:
        raise ConfigError(f"a published configuration has one stem convolution, got {stem}")
    return _conv(stem[0])


def _resnet_stem(stem: Sequence[Layer], spelling: Spelling) -> list[Json]:
    convs = [layer for layer in stem if isinstance(layer, Conv)]
    if len(convs) != len(stem) - 1 or stem[-1] != MaxPool():
        raise ConfigError(f"a published ResNet stem is convolutions and a max pool, got {stem}")
    return [
        _residual(_conv(layer), layer.in_channels, spelling) if layer.residual else _conv(layer)
        for layer in convs
    ]


def _blocks(plan: Blueprint, spelling: Spelling) -> list[Json]:
    modes = {b.downsample for b in plan.blocks if isinstance(b, Bottleneck)} - {"none"}
    if len(modes) > 1:
        raise ConfigError(f"blocks downsample in several ways: {', '.join(sorted(modes))}")
    mode = modes.pop() if modes else "avgpool_conv"
    write: dict[type, Callable[[Any], Json]] = {
        MBConv: lambda b: _residual(
            _mbconv(b, spelling), b.in_channels if b.residual else None, spelling
        ),
        Bottleneck: lambda b: _bottleneck(b, mode),
        Identity: lambda b: _residual({"name": "ZeroLayer", "stride": 1}, channels, spelling),
    }
    blocks = []
    channels = next((s.out_channels for s in plan.stem[::-1] if isinstance(s, Conv)), None)
    for block in plan.blocks:
        if type(block) not in write:
            raise ConfigError(f"a published configuration has no block like {block}")
        blocks.append(write[type(block)](block))
        if isinstance(block, MBConv | Bottleneck):
            channels = block.out_channels
    return blocks


def _residual(inner: Json, channels: int | None, spelling: Spelling) -> Json:
    """Return a residual block with an identity shortcut of ``channels``, or with none."""
    size = [channels] if spelling == "legacy" else channels
    shortcut = {
        "name": "IdentityLayer",
        "in_channels": size,
        "out_channels": size,
        "use_bn": False,
        "act_func": None,
        "dropout_rate": 0,
        "ops_order": "weight_bn_act",
    }
    name, key = "ResidualBlock", "conv"
    if spelling == "legacy":
        name, key = "MobileInvertedResidualBlock", "mobile_inverted_conv"
    return {"name": name, key: inner, "shortcut": None if channels is None else shortcut}


def _conv(layer: Conv) -> Json:
    return {
        "name": "ConvLayer",
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "dilation": 1,
        "groups": layer.groups,
        "bias": layer.bias,
        "has_shuffle": False,
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "use_bn": layer.norm,
        "act_func": _activation(layer.activation),
        "dropout_rate": 0,
        "ops_order": "weight_bn_act",
    }


def _mbconv(layer: MBConv, spelling: Spelling) -> Json:
    hidden = make_divisible(layer.mid_channels // 4) if layer.se_channels else 0
    if layer.se_channels != hidden:
        raise ConfigError(
            f"squeeze-excite of {layer.se_channels} channels: the published format has {hidden} "
            f"for a block of {layer.mid_channels}"
        )
    ratio: float | None = layer.expand_ratio
    if layer.has_expansion and ratio == 1:
        ratio = None  # a ratio of 1 means "no expansion" there; the middle width says it all
    return {
        "name": "MBInvertedConvLayer" if spelling == "legacy" else "MBConvLayer",
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "expand_ratio": ratio if layer.has_expansion else 1,
        "mid_channels": layer.mid_channels if layer.has_expansion else None,
        "act_func": _activation(layer.activation),
        "use_se": layer.se_channels > 0,
    }


def _bottleneck(layer: Bottleneck, mode: str) -> Json:
    keeps_shape = layer.stride == 1 and layer.in_channels == layer.out_channels
    if keeps_shape != (layer.downsample == "none"):
        raise ConfigError(f"the published format downsamples only where the shape changes: {layer}")
    return {
        "name": "ResNetBottleneckBlock",
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "expand_ratio": layer.expand_ratio,
        "mid_channels": layer.mid_channels,
        "act_func": _activation(layer.activation),
        "groups": 1,
        "downsample_mode": mode,
    }


def _linear(layer: Linear) -> Json:
    return {
        "name": "LinearLayer",
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias,
        "use_bn": False,
        "act_func": None,
        "dropout_rate": layer.dropout,
        "ops_order": "weight_bn_act",
    }


def _activation(name: Activation) -> str | None:
    if name == "silu":
        raise ConfigError("the published format has no activation silu")
    return None if name == "none" else name
