"""The stage table of ResNet-D supernets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onceforall.arch import Arch
from onceforall.blueprint import (
    Blueprint,
    Bottleneck,
    Conv,
    GlobalPool,
    Layer,
    Linear,
    MaxPool,
    make_divisible,
)
from onceforall.genes import Place, StageChoices
from onceforall.space import SearchSpace
from onceforall.supernets.ranges import check_ranges
from onceforall.supernets.slots import Slot, assemble, block_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetStage:
    """One stage of a ResNet supernet; the first block carries stride and downsampling.

    Attributes:
        width: Output channels at width multiplier 1.
        num_blocks: Physical blocks; ``depths`` says how many may be kept.
    """

    width: int
    stride: int
    num_blocks: int
    depths: tuple[int, ...]

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetSpec:
    """A ResNet-D supernet: elastic depth, expand ratio, width and a stem switch.

    Width sites: the middle of the stem, its output, then every stage.
    """

    num_classes: int
    resolutions: tuple[int, ...]
    stem_width: int
    stages: tuple[ResNetStage, ...]
    expand_ratios: tuple[float, ...]
    width_mults: tuple[float, ...]
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
            stem_depths=(0, 1),
            stem_width_mults=(self.width_mults, self.width_mults),
            stages=tuple(
                StageChoices(
                    num_blocks=stage.num_blocks,
                    depths=stage.depths,
                    kernel_sizes=(3,),
                    expand_ratios=self.expand_ratios,
                    width_mults=self.width_mults,
                )
                for stage in self.stages
            ),
        )

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Return every layer position in order of execution."""
        mid, out = ("width_mult", 0, -1), ("width_mult", 1, -1)
        switch = ("stem_depth", -1, -1)
        slots = [
            Slot(
                genes=(mid,), layer=lambda v: self._stem_conv(3, self._mid(v), 2), stride_before=()
            ),
            Slot(genes=(switch, mid), layer=self._stem_residual, stride_before=(2,)),
            Slot(
                genes=(mid, out),
                layer=lambda v: self._stem_conv(self._mid(v), self._out(v), 1),
                stride_before=(2,),
            ),
            Slot(genes=(), layer=lambda v: MaxPool(), stride_before=(2,)),
        ]
        strides: tuple[int, ...] = (2, 2)
        for stage, table in enumerate(self.stages):
            for block in range(table.num_blocks):
                slots.append(self._block_slot(stage, block, strides))
                if block == 0:
                    strides = (*strides, table.stride)
        last = (("width_mult", len(self.stages) + 1, -1),)
        slots.append(Slot(genes=(), layer=lambda v: GlobalPool(), stride_before=strides))
        slots.append(
            Slot(
                genes=last,
                layer=lambda v: Linear(
                    in_features=self._stage_width(len(self.stages) - 1, v),
                    out_features=self.num_classes,
                    dropout=self.dropout,
                ),
                stride_before=strides,
            )
        )
        return tuple(slots)

    def blueprint(self, arch: Arch) -> Blueprint:
        """Return the static network of ``arch``.

        Raises:
            ArchError: If ``arch`` does not fit the stage table.
        """
        return assemble(self, arch, num_stem=4, fixed=False)

    def _mid(self, values: Mapping[Place, Any]) -> int:
        stem = make_divisible(self.stem_width * values["width_mult", 0, -1], self.divisor)
        return make_divisible(stem // 2, self.divisor)

    def _out(self, values: Mapping[Place, Any]) -> int:
        return make_divisible(self.stem_width * values["width_mult", 1, -1], self.divisor)

    def _stage_width(self, stage: int, values: Mapping[Place, Any]) -> int:
        if stage < 0:
            return self._out(values)
        mult = values["width_mult", stage + 2, -1]
        return make_divisible(self.stages[stage].width * mult, self.divisor)

    def _stem_conv(self, in_channels: int, out_channels: int, stride: int) -> Layer:
        return Conv(
            in_channels=in_channels, out_channels=out_channels, kernel_size=3, stride=stride
        )

    def _stem_residual(self, values: Mapping[Place, Any]) -> Layer | None:
        if not values["stem_depth", -1, -1]:
            return None
        width = self._mid(values)
        return Conv(in_channels=width, out_channels=width, kernel_size=3, residual=True)

    def _block_slot(self, stage: int, block: int, strides: tuple[int, ...]) -> Slot:
        first = block == 0
        before = (("width_mult", stage + 1 + (not first), -1),)
        keys = block_keys(stage, block, before, (("width_mult", stage + 2, -1),))

        def layer(values: Mapping[Place, Any]) -> Layer | None:
            if values[keys[0]] <= block:
                return None
            out_channels = self._stage_width(stage, values)
            ratio = values[keys[2]]
            return Bottleneck(
                in_channels=self._stage_width(stage - first, values),
                mid_channels=make_divisible(round(out_channels * ratio), self.divisor),
                out_channels=out_channels,
                kernel_size=values[keys[1]],
                stride=self.stages[stage].stride if first else 1,
                expand_ratio=ratio,
                downsample="avgpool_conv" if first else "none",
            )

        return Slot(genes=keys, layer=layer, stride_before=strides)
