"""Slots: the layer positions of a supernet, and which of them run for an arch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from onceforall.arch import Arch
from onceforall.blueprint import Blueprint, Layer
from onceforall.genes import Place
from onceforall.space import SearchSpace

if TYPE_CHECKING:
    from onceforall.supernets.spec import TableSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One layer position of a supernet and the choices that decide what runs there.

    Attributes:
        genes: The gene keys the layer depends on. Keys of rigid choices are there too.
        layer: Maps the values of those genes to the layer that runs, or None where depth switches
            the position off.
        stride_before: Strides of all layers that come before, in order: they give the input side.
    """

    genes: tuple[Place, ...]
    layer: Callable[[Mapping[Place, Any]], Layer | None]
    stride_before: tuple[int, ...]

    def input_size(self, resolution: int) -> int:
        """Return the side of this position's input, in pixels."""
        size = resolution
        for stride in self.stride_before:
            size = (size - 1) // stride + 1
        return size


@lru_cache(maxsize=65536)
def active_slots(spec: TableSpec, arch: Arch) -> tuple[tuple[int, Layer], ...]:
    """Return the positions that run for ``arch``, each with its slot index and layer.

    Raises:
        ArchError: If ``arch`` does not fit the stage table; its resolution may be any.
    """
    space, slots = _structure(spec)
    # Specialised nets may be fine-tuned beyond the elastic resolutions; the layers are the same.
    space.check(replace(arch, resolution=space.resolutions[-1]))
    values = gene_values(space, arch)
    layers = ((index, slot.layer(values)) for index, slot in enumerate(slots))
    return tuple((index, layer) for index, layer in layers if layer is not None)


@lru_cache(maxsize=64)
def _structure(spec: TableSpec) -> tuple[SearchSpace, tuple[Slot, ...]]:
    return spec.space, spec.slots


def gene_values(space: SearchSpace, arch: Arch) -> dict[Place, Any]:
    """Return the value of every choice of ``arch``, rigid ones included."""
    values: dict[Place, Any] = {
        ("resolution", -1, -1): arch.resolution,
        ("stem_depth", -1, -1): arch.stem_depth,
    }
    for site, mult in enumerate(arch.width_mult):
        values["width_mult", site, -1] = mult
    for stage, choices in enumerate(space.stages):
        values["depth", stage, -1] = arch.depth[stage]
        for block in range(choices.num_blocks):
            on = block < arch.depth[stage]
            values["kernel_size", stage, block] = arch.kernel_size[stage][block] if on else None
            values["expand_ratio", stage, block] = arch.expand_ratio[stage][block] if on else None
    return values


def block_keys(
    stage: int, block: int, before: tuple[Place, ...], after: tuple[Place, ...]
) -> tuple[Place, ...]:
    """Return the gene keys of a block: depth, kernel size, expand ratio, then widths."""
    return (
        ("depth", stage, -1),
        ("kernel_size", stage, block),
        ("expand_ratio", stage, block),
        *dict.fromkeys(before + after),
    )


def assemble(spec: TableSpec, arch: Arch, *, num_stem: int, fixed: bool) -> Blueprint:
    """Split the active layers into stem, blocks and head."""
    active = active_slots(spec, arch)
    num_blocks = sum(stage.num_blocks for stage in spec.stages) + fixed
    return Blueprint(
        stem=tuple(layer for i, layer in active if i < num_stem),
        blocks=tuple(layer for i, layer in active if num_stem <= i < num_stem + num_blocks),
        head=tuple(layer for i, layer in active if i >= num_stem + num_blocks),
        stage_sizes=((1,) if fixed else ()) + arch.depth,
        norm_eps=spec.norm_eps,
        norm_momentum=spec.norm_momentum,
    )
