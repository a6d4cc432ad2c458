"""The stage table of supernets of convolution blocks: MBConv, fused MBConv, plain residual."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from onceforall.arch import Arch
from onceforall.blueprint import (
    Activation,
    Block,
    Blueprint,
    Conv,
    FusedMBConv,
    GlobalPool,
    Layer,
    Linear,
    MBConv,
    Residual,
    make_divisible,
)
from onceforall.errors import ArchError, BlueprintError
from onceforall.genes import Place, StageChoices
from onceforall.space import SearchSpace
from onceforall.supernets.ranges import check_ranges
from onceforall.supernets.slots import Slot, assemble, block_keys

BlockKind = Literal["mbconv", "fused_mbconv", "residual"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedBlock:
    """A rigid first block of an MBConv supernet: ``width`` channels, no expansion."""

    width: int
    kernel_size: int = 3
    stride: int = 1
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class MBConvStage:
    """One stage of a supernet of convolution blocks; the first block carries the stride.

    Attributes:
        block: What its blocks are: inverted bottlenecks, fused ones (one dense convolution
            instead of 1x1 and depthwise), or plain residual blocks of two dense convolutions.
            Dense convolutions have one kernel size and no squeeze-excite.
        width: Output channels at width multiplier 1 (before rounding to the divisor).
        num_blocks: Physical blocks; ``depths`` says how many may be kept.
        width_mults: Elastic multipliers of this stage's width; empty when rigid.
    """

    width: int
    stride: int
    activation: Activation
    squeeze_excite: bool = False
    num_blocks: int
    depths: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[float, ...]
    width_mults: tuple[float, ...] = ()
    block: BlockKind = "mbconv"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.block != "mbconv" and (len(self.kernel_sizes) > 1 or self.squeeze_excite):
            raise BlueprintError(
                f"a stage of {self.block} blocks has one kernel size and no squeeze-excite, got "
                f"{self.kernel_sizes} and squeeze_excite {self.squeeze_excite}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MBConvSpec:
    """A supernet of inverted bottlenecks or other convolution blocks, from its stage table.

    Attributes:
        num_classes: Outputs of the classifier.
        resolutions: Input sides in pixels, ascending.
        in_channels: Channels of the images.
        is_uniform: Whether one kernel size, depth and expand ratio are chosen for the whole
            network, instead of for each block and stage.
        stem_width: Output channels of the 3x3 stem convolution.
        stem_width_mults: Elastic multipliers of the stem (and fixed block); empty when rigid.
        fixed_block: A rigid block after the stem, or None.
        stages: The elastic stages.
        expand_width: Channels of the 1x1 convolution before pooling; 0 for none.
        mix_width: Channels of the 1x1 convolution without norm after pooling; 0 for none.
        head_activation: Activation of both head convolutions.
        width_mult: Rigid multiplier of every width.
        divisor: Widths are rounded to a multiple of it.
        dropout: Dropout rate before the classifier.
    """

    num_classes: int
    resolutions: tuple[int, ...]
    in_channels: int = 3
    is_uniform: bool = False
    stem_width: int
    stem_stride: int
    stem_activation: Activation = "relu"
    stem_width_mults: tuple[float, ...] = ()
    fixed_block: FixedBlock | None = None
    stages: tuple[MBConvStage, ...]
    expand_width: int = 0
    mix_width: int = 0
    head_activation: Activation = "relu"
    width_mult: float = 1.0
    divisor: int = 8
    dropout: float = 0.0
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def space(self) -> SearchSpace:
        """Return the search space of the table."""
        return SearchSpace(
            resolutions=self.resolutions,
            is_uniform=self.is_uniform,
            stem_width_mults=(self.stem_width_mults,) if self.stem_width_mults else (),
            stages=tuple(
                StageChoices(
                    num_blocks=stage.num_blocks,
                    depths=stage.depths,
                    kernel_sizes=stage.kernel_sizes,
                    expand_ratios=stage.expand_ratios,
                    width_mults=stage.width_mults,
                )
                for stage in self.stages
            ),
        )

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Return every layer position in order of execution."""
        stem_key = self._width_key(-1)
        slots = [Slot(genes=stem_key, layer=self._stem, stride_before=())]
        strides: tuple[int, ...] = (self.stem_stride,)
        if self.fixed_block is not None:
            slots.append(Slot(genes=stem_key, layer=self._fixed, stride_before=strides))
            strides = (*strides, self.fixed_block.stride)
        for stage, table in enumerate(self.stages):
            for block in range(table.num_blocks):
                slots.append(self._block_slot(stage, block, strides))
                if block == 0:
                    strides = (*strides, table.stride)
        last = self._width_key(len(self.stages) - 1)
        for position in range(len(self._head(self._largest_width(len(self.stages) - 1)))):
            slots.append(Slot(genes=last, layer=self._head_layer(position), stride_before=strides))
        return tuple(slots)

    def blueprint(self, arch: Arch) -> Blueprint:
        """Return the static network of ``arch``.

        Raises:
            ArchError: If ``arch`` does not fit the stage table.
        """
        return assemble(self, arch, num_stem=1, fixed=self.fixed_block is not None)

    # -- layers at one position -----------------------------------------------------------------

    def _width_key(self, stage: int) -> tuple[Place, ...]:
        """Return the width gene of the stem (-1) or of a stage; empty when rigid."""
        has_stem = bool(self.stem_width_mults)
        if stage < 0:
            return (("width_mult", 0, -1),) if has_stem else ()
        if not self.stages[stage].width_mults:
            return ()
        site = has_stem + sum(bool(s.width_mults) for s in self.stages[:stage])
        return (("width_mult", site, -1),)

    def _width(self, base: int, mult: float = 1.0) -> int:
        return make_divisible(base * self.width_mult * mult, self.divisor)

    def _stage_width(self, stage: int, values: Mapping[Place, Any]) -> int:
        key = self._width_key(stage)
        base = self._base_width(stage)
        return self._width(base, values[key[0]] if key else 1.0)

    def _base_width(self, stage: int) -> int:
        if stage >= 0:
            return self.stages[stage].width
        return self.stem_width if self.fixed_block is None else self.fixed_block.width

    def _largest_width(self, stage: int) -> int:
        mults = self.stages[stage].width_mults
        return self._width(self.stages[stage].width, mults[-1] if mults else 1.0)

    def _stem(self, values: Mapping[Place, Any]) -> Layer:
        key = self._width_key(-1)
        return Conv(
            in_channels=self.in_channels,
            out_channels=self._width(self.stem_width, values[key[0]] if key else 1.0),
            kernel_size=3,
            stride=self.stem_stride,
            activation=self.stem_activation,
        )

    def _fixed(self, values: Mapping[Place, Any]) -> Layer:
        block = self.fixed_block
        if block is None:
            raise ArchError("this stage table has no fixed block")
        key = self._width_key(-1)
        mult = values[key[0]] if key else 1.0
        in_channels, out_channels = (
            self._width(self.stem_width, mult),
            self._width(block.width, mult),
        )
        return MBConv(
            in_channels=in_channels,
            mid_channels=in_channels,
            out_channels=out_channels,
            kernel_size=block.kernel_size,
            stride=block.stride,
            activation=block.activation,
            has_expansion=False,
            residual=block.stride == 1 and in_channels == out_channels,
        )

    def _block_slot(self, stage: int, block: int, strides: tuple[int, ...]) -> Slot:
        first = block == 0
        keys = block_keys(stage, block, self._width_key(stage - first), self._width_key(stage))

        def layer(values: Mapping[Place, Any]) -> Layer | None:
            if values[keys[0]] <= block:
                return None
            return self._block(
                stage,
                block,
                in_channels=self._stage_width(stage - first, values),
                out_channels=self._stage_width(stage, values),
                kernel_size=values[keys[1]],
                ratio=values[keys[2]],
            )

        return Slot(genes=keys, layer=layer, stride_before=strides)

    def _block(
        self,
        stage: int,
        block: int,
        *,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        ratio: float,
    ) -> Block:
        table = self.stages[stage]
        stride = table.stride if block == 0 else 1
        keeps_shape = in_channels == out_channels and self._may_add(stage, block)
        shared: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": kernel_size,
            "stride": stride,
            "expand_ratio": ratio,
            "activation": table.activation,
        }
        if table.block == "residual":
            return Residual(
                **shared,
                mid_channels=self._mid(out_channels, ratio),
                downsample="avgpool_conv" if stride > 1 else "none" if keeps_shape else "conv",
            )
        mid_channels = self._mid(in_channels, ratio)
        if table.block == "fused_mbconv":
            return FusedMBConv(
                **shared, mid_channels=mid_channels, residual=stride == 1 and keeps_shape
            )
        # A block with one ratio of 1 has no expansion; where 1 is one choice of several it stays.
        has_expansion = table.expand_ratios != (1,)
        mid_channels = mid_channels if has_expansion else in_channels
        return MBConv(
            **shared,
            mid_channels=mid_channels,
            se_channels=make_divisible(mid_channels // 4) if table.squeeze_excite else 0,
            has_expansion=has_expansion,
            residual=stride == 1 and keeps_shape,
        )

    def _mid(self, channels: int, ratio: float) -> int:
        return make_divisible(round(channels * ratio), self.divisor)

    def _may_add(self, stage: int, block: int) -> bool:
        """Say whether a block may have a shortcut.

        The first block of a stage whose input width is elastic on its own must not gain or lose a
        shortcut with the choice of widths.
        """
        if block > 0:
            return True
        return self._width_key(stage - 1) == () and self._width_key(stage) == ()

    def _head_layer(self, position: int) -> Callable[[Mapping[Place, Any]], Layer]:
        last = len(self.stages) - 1
        return lambda values: self._head(self._stage_width(last, values))[position]

    def _head(self, in_channels: int) -> tuple[Layer, ...]:
        layers: list[Layer] = []
        if self.expand_width:
            width = self._width(self.expand_width)
            layers.append(
                Conv(
                    in_channels=in_channels,
                    out_channels=width,
                    activation=self.head_activation,
                )
            )
            in_channels = width
        layers.append(GlobalPool())
        if self.mix_width:
            width = self._width(self.mix_width)
            layers.append(
                Conv(
                    in_channels=in_channels,
                    out_channels=width,
                    norm=False,
                    activation=self.head_activation,
                )
            )
            in_channels = width
        layers.append(
            Linear(in_features=in_channels, out_features=self.num_classes, dropout=self.dropout)
        )
        return tuple(layers)
