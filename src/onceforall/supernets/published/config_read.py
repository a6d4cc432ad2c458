"""Reading the published ``net.config`` JSON, in both spellings, into blueprints.

A configuration names every layer of a static network. Files from before November 2020, and every
released specialised network, have the *legacy* spelling: ``MobileInvertedResidualBlock`` with
``mobile_inverted_conv`` for ``ResidualBlock`` with ``conv``, ``MBInvertedConvLayer`` for
``MBConvLayer``, and channels of an ``IdentityLayer`` as one-element lists. Reading never changes
the mapping it is given, and rejects what it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from onceforall.blueprint import (
    Activation,
    Blueprint,
    Bottleneck,
    Conv,
    Downsample,
    GlobalPool,
    Identity,
    Layer,
    Linear,
    MaxPool,
    MBConv,
    make_divisible,
)
from onceforall.errors import ConfigError
from onceforall.reading import is_number

_LARGEST, _LARGEST_RATIO = 10**9, 64
_NETS = ("MobileNetV3", "ProxylessNASNets", "ResNets")
_DEFAULT_EPS = {"MobileNetV3": 1e-5, "ProxylessNASNets": 1e-3, "ResNets": 1e-5}
# Fields of each layer; a value is the only one allowed, ... means any.
_UNUSED = {"dropout_rate": 0, "ops_order": "weight_bn_act"}
_FIELDS: dict[str, dict[str, Any]] = {
    "ConvLayer": {
        "kernel_size": ..., "stride": ..., "dilation": 1, "groups": ..., "bias": ...,
        "has_shuffle": False, "use_se": False, "in_channels": ..., "out_channels": ...,
        "use_bn": ..., "act_func": ..., **_UNUSED,
    },
    "LinearLayer": {
        "in_features": ..., "out_features": ..., "bias": ..., "use_bn": False, "act_func": None,
        "dropout_rate": ..., "ops_order": "weight_bn_act",
    },
    "IdentityLayer": {
        "in_channels": ..., "out_channels": ..., "use_bn": False, "act_func": None, **_UNUSED,
    },
    "MBConvLayer": {
        "in_channels": ..., "out_channels": ..., "kernel_size": ..., "stride": ...,
        "expand_ratio": ..., "mid_channels": ..., "act_func": ..., "use_se": ..., "groups": None,
    },
    "ResNetBottleneckBlock": {
        "in_channels": ..., "out_channels": ..., "kernel_size": ..., "stride": ...,
        "expand_ratio": ..., "mid_channels": ..., "act_func": ..., "groups": 1,
        "downsample_mode": ...,
    },
    "ResidualBlock": {"conv": ..., "shortcut": ...},
    "ZeroLayer": {"stride": ...},
}  # fmt: skip
_LEGACY = {"MBInvertedConvLayer": "MBConvLayer", "MobileInvertedResidualBlock": "ResidualBlock"}
# What a network may hold beside its layers. The last ones are notes of third parties and ours.
_MOBILE_PARTS = ("first_conv", "blocks", "final_expand_layer", "feature_mix_layer", "classifier")
_NOTES = ("name", "bn", "resolution", "mean", "std", "crop_ratio")


def blueprint_from_config(config: Mapping[str, Any]) -> Blueprint:
    """Return the static network of a published configuration, in either spelling.

    Positions of blocks are kept (a ``ZeroLayer`` block becomes ``Identity``), so the names of the
    published tensors follow from the blueprint alone (see ``published_keys``).

    Raises:
        ConfigError: If a layer or field is unknown, missing or has a value no layer here has.
        BlueprintError: If the layers do not fit one another.
    """
    name = config.get("name") if isinstance(config, Mapping) else None
    if not isinstance(name, str) or name not in _NETS:
        raise ConfigError(f"configuration: name {name!r} is not one of {', '.join(_NETS)}")
    parts = ("input_stem", "blocks", "classifier") if name == "ResNets" else _MOBILE_PARTS
    _known(config, (*parts, *_NOTES), "configuration")
    eps, momentum = _norm(config.get("bn"), name)
    blocks = [_block(b, f"blocks.{i}") for i, b in enumerate(_list(config, "blocks"))]
    if name == "ResNets":
        stem = [_residual(b, f"input_stem.{i}") for i, b in enumerate(_list(config, "input_stem"))]
        stem.append(MaxPool())
        head: list[Layer] = [GlobalPool()]
    else:
        stem = [_conv(_get(config, "first_conv", "configuration"), "first_conv")]
        head = _mobile_head(config)
    head.append(_linear(_get(config, "classifier", "configuration"), "classifier"))
    return Blueprint(
        stem=tuple(stem),
        blocks=tuple(blocks),
        head=tuple(head),
        stage_sizes=_stage_sizes(blocks),
        norm_eps=eps,
        norm_momentum=momentum,
    )


def _mobile_head(config: Mapping[str, Any]) -> list[Layer]:
    """Return the layers between the blocks and the classifier.

    MobileNetV3 mixes features after the pool, ProxylessNAS (if at all) before it.
    """
    mix = config.get("feature_mix_layer")
    if config["name"] == "ProxylessNASNets":
        _known(config, (*(p for p in _MOBILE_PARTS if p != "final_expand_layer"), *_NOTES), "")
        return [*([] if mix is None else [_conv(mix, "feature_mix_layer")]), GlobalPool()]
    expand = _conv(_get(config, "final_expand_layer", "configuration"), "final_expand_layer")
    return [expand, GlobalPool(), _conv(_get(config, "feature_mix_layer", ""), "feature_mix_layer")]


def _stage_sizes(blocks: Sequence[Layer]) -> tuple[int, ...]:
    """Return the blocks of each stage: a stage starts where a block has no identity shortcut.

    A first block without expansion is a stage of its own.
    """
    leading = bool(blocks) and isinstance(blocks[0], MBConv) and not blocks[0].has_expansion
    sizes: list[int] = []
    for i, block in enumerate(blocks):
        starts = (isinstance(block, MBConv) and not block.residual) or (
            isinstance(block, Bottleneck) and block.downsample != "none"
        )
        if i == 0 or starts or (leading and i == 1):
            sizes.append(0)
        sizes[-1] += 1
    return tuple(sizes)


def _norm(bn: Any, net_name: str) -> tuple[float, float]:
    if bn is None:
        return _DEFAULT_EPS[net_name], 0.1
    if not isinstance(bn, Mapping):
        raise ConfigError(f"bn: {bn!r} is not an object")
    _known(bn, ("momentum", "eps", "ws_eps"), "bn")
    if bn.get("ws_eps") is not None:
        raise ConfigError(f"bn: ws_eps {bn['ws_eps']} (weight standardisation) is not supported")
    eps, momentum = (_number(_get(bn, key, "bn"), f"bn: {key}") for key in ("eps", "momentum"))
    if not (0 < eps <= 1 and 0 <= momentum <= 1):
        raise ConfigError(f"bn: eps {eps} or momentum {momentum} is not in (0, 1]")
    return eps, momentum


def _block(config: Any, where: str) -> Layer:
    name = _name(config, where)
    if name == "ResNetBottleneckBlock":
        return _bottleneck(config, where)
    return _residual(config, where)


def _residual(config: Any, where: str) -> Layer:
    """Return the layer of a residual block, or of a bare convolution (in a stem)."""
    if _name(config, where) == "ConvLayer":
        return _conv(config, where)
    block = _fields(config, "ResidualBlock", where)
    inner = _get(block, "conv", where)
    shortcut = block.get("shortcut")
    residual = shortcut is not None and _name(shortcut, where) != "ZeroLayer"
    if residual:
        _identity(shortcut, f"{where}.shortcut")
    if inner is None or _name(inner, f"{where}.conv") == "ZeroLayer":
        # Upstream passes the input on here, whatever the shortcut.
        return Identity()
    if _name(inner, f"{where}.conv") == "ConvLayer":
        return replace(_conv(inner, f"{where}.conv"), residual=residual)
    return _mbconv(inner, f"{where}.conv", residual=residual)


def _identity(config: Any, where: str) -> None:
    fields = _fields(config, "IdentityLayer", where)
    sizes = [fields.get("in_channels"), fields.get("out_channels")]
    first, second = (s[0] if isinstance(s, list | tuple) and len(s) == 1 else s for s in sizes)
    if not isinstance(first, int) or first != second:
        raise ConfigError(f"{where}: IdentityLayer from {first} to {second} channels")


def _conv(config: Any, where: str) -> Conv:
    fields = _fields(config, "ConvLayer", where)
    return Conv(
        in_channels=_whole(fields, "in_channels", where),
        out_channels=_whole(fields, "out_channels", where),
        kernel_size=_kernel(fields.get("kernel_size", 3), where),
        stride=_whole(fields, "stride", where, 1),
        groups=_whole(fields, "groups", where, 1),
        bias=_flag(fields, "bias", where, False),
        norm=_flag(fields, "use_bn", where, True),
        activation=_activation(fields.get("act_func", "relu"), where),
    )


def _mbconv(config: Any, where: str, *, residual: bool) -> MBConv:
    fields = _fields(config, "MBConvLayer", where)
    in_channels = _whole(fields, "in_channels", where)
    ratio = fields.get("expand_ratio", 6)
    if ratio is not None:
        ratio = _ratio(ratio, where)
    mid = None if fields.get("mid_channels") is None else _whole(fields, "mid_channels", where)
    if mid is None:
        # Static networks round this width to a whole number, not to a multiple of 8.
        mid = round(in_channels * (6 if ratio is None else ratio))
    return MBConv(
        in_channels=in_channels,
        mid_channels=mid,
        out_channels=_whole(fields, "out_channels", where),
        kernel_size=_kernel(fields.get("kernel_size", 3), where),
        stride=_whole(fields, "stride", where, 1),
        expand_ratio=mid / in_channels if ratio is None else ratio,
        activation=_activation(fields.get("act_func", "relu6"), where),
        se_channels=make_divisible(mid // 4) if _flag(fields, "use_se", where, False) else 0,
        has_expansion=ratio != 1,
        residual=residual,
    )


def _bottleneck(config: Any, where: str) -> Bottleneck:
    fields = _fields(config, "ResNetBottleneckBlock", where)
    in_channels, out_channels = (
        _whole(fields, key, where) for key in ("in_channels", "out_channels")
    )
    stride = _whole(fields, "stride", where, 1)
    ratio = _ratio(fields.get("expand_ratio", 0.25), where)
    mid = None if fields.get("mid_channels") is None else _whole(fields, "mid_channels", where)
    mode: Downsample = fields.get("downsample_mode", "avgpool_conv")
    if not isinstance(mode, str) or mode not in get_args(Downsample):
        raise ConfigError(f"{where}: downsample_mode {mode!r} is not conv or avgpool_conv")
    return Bottleneck(
        in_channels=in_channels,
        mid_channels=make_divisible(round(out_channels * ratio)) if mid is None else mid,
        out_channels=out_channels,
        kernel_size=_kernel(fields.get("kernel_size", 3), where),
        stride=stride,
        expand_ratio=ratio,
        activation=_activation(fields.get("act_func", "relu"), where),
        downsample="none" if stride == 1 and in_channels == out_channels else mode,
    )


def _linear(config: Any, where: str) -> Linear:
    fields = _fields(config, "LinearLayer", where)
    return Linear(
        in_features=_whole(fields, "in_features", where),
        out_features=_whole(fields, "out_features", where),
        bias=_flag(fields, "bias", where, True),
        dropout=_number(fields.get("dropout_rate") or 0.0, f"{where}: dropout_rate"),
    )


def _fields(config: Any, expected: str, where: str) -> Mapping[str, Any]:
    """Return the checked fields of a layer, under their current names."""
    name = _name(config, where)
    if name != expected:
        raise ConfigError(f"{where}: {name} where a {expected} belongs")
    fields = {("conv" if k == "mobile_inverted_conv" else k): v for k, v in config.items()}
    known = _FIELDS[name]
    _known(fields, (*known, "name"), where)
    for key, allowed in known.items():
        value = fields.get(key)
        # An absent or null field means its only value, and so does 0.0 for 0.
        if allowed is not ... and value is not None and value != allowed:
            raise ConfigError(f"{where}: {key} {value!r} is not supported, only {allowed!r}")
    return fields


def _name(config: Any, where: str) -> str:
    name = config.get("name") if isinstance(config, Mapping) else None
    name = _LEGACY.get(str(name), str(name))
    if name.startswith("Dynamic"):
        raise ConfigError(f"{where}: {name} is a supernet's layer; a static network has none")
    if name not in _FIELDS:
        raise ConfigError(f"{where}: layer {name!r} is not one of {', '.join(_FIELDS)}")
    return name


def _known(config: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in config:
        if key not in known:
            raise ConfigError(f"{where or 'configuration'}: unknown field {key!r}")


def _get(config: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in config:
        raise ConfigError(f"{where or 'configuration'}: no field {key!r}")
    return config[key]


def _kernel(value: Any, where: str) -> int:
    sides = list(value) if isinstance(value, list | tuple) else [value]
    if not sides or not all(isinstance(side, int) and side == sides[0] for side in sides):
        raise ConfigError(f"{where}: kernel_size {value!r} is not one odd number")
    return int(sides[0])


def _list(config: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = _get(config, key, "configuration")
    if not isinstance(value, list | tuple):
        raise ConfigError(f"configuration: {key} {value!r} is not a list")
    return value


def _whole(fields: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = _get(fields, key, where) if default is None else fields.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{where}: {key} {value!r} is not a whole number")
    return value


def _flag(fields: Mapping[str, Any], key: str, where: str, default: bool) -> bool:
    value = fields.get(key, default)
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"{where}: {key} {value!r} is neither true nor false")
    return bool(value)


def _ratio(value: Any, where: str) -> float:
    if not is_number(value, 0.01, _LARGEST_RATIO):
        raise ConfigError(f"{where}: expand_ratio {value!r} is not from 0.01 to {_LARGEST_RATIO}")
    return value


def _number(value: Any, where: str) -> float:
    if not is_number(value, -_LARGEST, _LARGEST):
        raise ConfigError(f"{where} {value!r} is not a number")
    return value


def _activation(value: Any, where: str) -> Activation:
    name: Activation = "none" if value is None else value
    if not isinstance(name, str) or name not in get_args(Activation):
        raise ConfigError(f"{where}: act_func {value!r} is not one of {get_args(Activation)}")
    return name
