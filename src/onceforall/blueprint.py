"""Blueprint: a static network as data.

A blueprint is three sequences of layer records: stem, blocks, head. The plain module, the exact
costs, the latency-table keys, the published configuration and the drawing all come from it, and
the supernet runs the very same records on its elastic layers.

A new kind of layer is a record here (in ``Layer``, blocks in ``Block``), an operator in `ops/`, its
primitive units in `supernets/units.py`, a plain and an elastic module in `supernets/` (`blocks`,
`elastic_blocks`; built by `static` and `supernet`, placed by a stage table of `conv_spec`), and a
case in `measure/costs`, `measure/onnx/model`, `measure/latency/` (`fit`, `table`) and
`supernets/published/keys`. mypy names each place that is forgotten. A network that is traced
(`supernets/graphs/`) needs none of it.

Spatial sizes: every strided layer has "same" padding, so an input side ``s`` gives
``(s - 1) // stride + 1``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from onceforall.errors import BlueprintError, ConfigError
from onceforall.records import record_from_json, record_to_json

Activation = Literal["relu", "relu6", "h_swish", "h_sigmoid", "sigmoid", "tanh", "silu", "none"]
Downsample = Literal["none", "conv", "avgpool_conv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """Convolution with "same" padding, batch norm and activation; with ``residual``, plus input."""

    in_channels: int
    out_channels: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    bias: bool = False
    norm: bool = True
    activation: Activation = "relu"
    residual: bool = False

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.residual and (self.stride != 1 or self.in_channels != self.out_channels):
            raise BlueprintError(f"a residual convolution keeps its shape, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MBConv:
    """Inverted bottleneck: 1x1 expand, depthwise, optional squeeze-excite, 1x1 project.

    Attributes:
        mid_channels: Channels of the depthwise convolution.
        expand_ratio: The ratio that ``mid_channels`` came from (published configurations name it).
        se_channels: Hidden channels of squeeze-excite; 0 for none.
        has_expansion: Whether the 1x1 expansion is there.
        residual: Whether the input is added to the output.
    """

    in_channels: int
    mid_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    expand_ratio: float = 1
    activation: Activation = "relu"
    se_channels: int = 0
    has_expansion: bool = True
    residual: bool = False

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.residual and (self.stride != 1 or self.in_channels != self.out_channels):
            raise BlueprintError(f"a residual block keeps its shape, got {self}")
        if not self.has_expansion and self.mid_channels != self.in_channels:
            raise BlueprintError(f"without expansion the middle width is the input's, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck:
    """ResNet bottleneck: 1x1 reduce, 3x3 with the stride, 1x1 restore, plus shortcut.

    Attributes:
        downsample: What the shortcut does: nothing, a strided 1x1 convolution, or (ResNet-D) an
            average pool followed by a 1x1 convolution.
    """

    in_channels: int
    mid_channels: int
    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    expand_ratio: float = 0.25
    activation: Activation = "relu"
    downsample: Downsample = "none"

    def __post_init__(self) -> None:
        _check_positive(self)
        _check_shortcut(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """Plain residual block: two dense convolutions, the first with the stride, plus shortcut.

    Attributes:
        mid_channels: Channels between the two convolutions.
        expand_ratio: ``mid_channels`` over ``out_channels``, before rounding.
        downsample: As for `Bottleneck`.
    """

    in_channels: int
    mid_channels: int
    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    expand_ratio: float = 1
    activation: Activation = "relu"
    downsample: Downsample = "none"

    def __post_init__(self) -> None:
        _check_positive(self)
        _check_shortcut(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedMBConv:
    """Inverted bottleneck whose expansion is one dense convolution, then 1x1 project.

    Attributes:
        mid_channels: Channels of the dense convolution.
        expand_ratio: ``mid_channels`` over ``in_channels``, before rounding.
        residual: Whether the input is added to the output.

    Source: Tan and Le, *EfficientNetV2*, ICML 2021, figure 2.
    """

    in_channels: int
    mid_channels: int
    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    expand_ratio: float = 1
    activation: Activation = "relu"
    residual: bool = False

    def __post_init__(self) -> None:
        _check_positive(self)
        if self.residual and (self.stride != 1 or self.in_channels != self.out_channels):
            raise BlueprintError(f"a residual block keeps its shape, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool:
    """Max pooling with padding ``kernel_size // 2``."""

    kernel_size: int = 3
    stride: int = 2

    def __post_init__(self) -> None:
        _check_positive(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalPool:
    """Mean over both spatial axes, kept as a 1x1 map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Dropout (in training) and a fully connected layer on the flattened input."""

    in_features: int
    out_features: int
    bias: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("in_features", "out_features"):
            if not 1 <= getattr(self, name) <= _MOST_FEATURES:
                raise BlueprintError(
                    f"Linear: {name} {getattr(self, name)} is not from 1 to {_MOST_FEATURES}"
                )
        if not 0 <= self.dropout < 1:
            raise BlueprintError(f"Linear: dropout {self.dropout} is not in [0, 1)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A block that passes its input on (published ProxylessNAS nets have some)."""


Block = MBConv | Bottleneck | Residual | FusedMBConv
Layer = Conv | Block | MaxPool | GlobalPool | Linear | Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A static network.

    Attributes:
        stem: Layers before the residual blocks.
        blocks: Residual blocks.
        head: Layers after the blocks; the last one is the classifier.
        stage_sizes: Number of blocks of each stage, a leading fixed block counting as its own.
        norm_eps: Batch-norm epsilon of every layer.
        norm_momentum: Batch-norm momentum of every layer.
    """

    stem: tuple[Layer, ...]
    blocks: tuple[Layer, ...]
    head: tuple[Layer, ...]
    stage_sizes: tuple[int, ...]
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1

    def __post_init__(self) -> None:
        for layer in self.layers:
            if not isinstance(layer, LAYER_TYPES):
                raise BlueprintError(f"{layer!r} is not a layer")
        if sum(self.stage_sizes) != len(self.blocks):
            raise BlueprintError(
                f"stage sizes {self.stage_sizes} do not add up to {len(self.blocks)} blocks"
            )
        channels: int | None = None
        for layer in self.layers:
            before, after = _ends(layer)
            if channels is not None and before is not None and before != channels:
                raise BlueprintError(f"{layer} follows a layer with {channels} output channels")
            channels = channels if after is None else after

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Return every layer in order of execution."""
        return self.stem + self.blocks + self.head

    @property
    def num_classes(self) -> int:
        """Return the number of outputs of the classifier."""
        last = self.head[-1] if self.head else None
        if not isinstance(last, Linear):
            raise BlueprintError(f"the last layer must be Linear, got {last}")
        return last.out_features


def output_size(layer: Layer, size: int) -> int:
    """Return the output side, in pixels, of ``layer`` on a square input of side ``size``."""
    if isinstance(layer, GlobalPool | Linear):
        return 1
    if isinstance(layer, Identity):
        return size
    return (size - 1) // layer.stride + 1


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round a number of channels to a multiple of ``divisor``, never by more than 10 % down.

    Source: Sandler et al., *MobileNetV2*, CVPR 2018, reference implementation.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _ends(layer: Layer) -> tuple[int | None, int | None]:
    """Return the input and output channels; None where a layer takes what comes."""
    if isinstance(layer, Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, Conv | Block):
        return layer.in_channels, layer.out_channels
    return None, None


# No network here has more, and what has is not meant to be built.
_MOST_FEATURES = 2**22
_MOST = {
    "in_channels": 2**16,
    "mid_channels": 2**16,
    "out_channels": 2**16,
    "kernel_size": 31,
    "stride": 16,
    "groups": 2**16,
}


def _check_shortcut(layer: Bottleneck | Residual) -> None:
    if layer.downsample == "none" and (
        layer.stride != 1 or layer.in_channels != layer.out_channels
    ):
        raise BlueprintError(f"an identity shortcut keeps its shape, got {layer}")


def _check_positive(layer: Conv | Block | MaxPool) -> None:
    for name, most in _MOST.items():
        value = getattr(layer, name, 1)
        if not 1 <= value <= most:
            raise BlueprintError(f"{type(layer).__name__}: {name} {value} is not from 1 to {most}")
    if layer.kernel_size % 2 == 0:
        raise BlueprintError(f"{type(layer).__name__}: kernel_size {layer.kernel_size} is not odd")


LAYER_TYPES = get_args(Layer)


def blueprint_to_json(plan: Blueprint) -> dict[str, Any]:
    """Return a blueprint as a JSON object."""
    return record_to_json(plan)  # type: ignore[no-any-return]


def blueprint_from_json(value: dict[str, Any]) -> Blueprint:
    """Return the blueprint that :func:`blueprint_to_json` wrote.

    Raises:
        ConfigError: If it is not one.
    """
    plan = record_from_json(value, (Blueprint, *LAYER_TYPES))
    if not isinstance(plan, Blueprint):
        raise ConfigError(f"record {type(plan).__name__} is not a blueprint")
    return plan
