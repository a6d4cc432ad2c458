"""Archs as published files spell them: flat lists over all physical blocks, or one value each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from onceforall.arch import PUBLISHED_EXTRA_BLOCKS, PUBLISHED_WIDTH_MULTS, Arch
from onceforall.errors import ArchError
from onceforall.reading import is_number

_LARGEST = 10**6


class _Stage(Protocol):
    """What a published spelling asks of a stage."""

    @property
    def num_blocks(self) -> int: ...

    @property
    def depths(self) -> tuple[int, ...]: ...


class _Space(Protocol):
    """What a published spelling asks of a search space, which offers it as a method."""

    @property
    def stages(self) -> Sequence[_Stage]: ...

    @property
    def resolutions(self) -> tuple[int, ...]: ...

    @property
    def stem_depths(self) -> tuple[int, ...]: ...

    @property
    def width_sites(self) -> tuple[tuple[float, ...], ...]: ...

    @property
    def largest(self) -> Arch: ...

    def check(self, arch: Arch) -> Arch: ...


def arch_from_published(
    space: _Space, published: Mapping[str, Any], *, resolution: int | None = None
) -> Arch:
    """Return the arch of a published spelling.

    Args:
        space: Space of the arch.
        published: ``{"ks", "e", "d"}`` or, for ResNet50D, ``{"d", "e", "w"}``; each a list
            over all physical blocks or stages, or one value for all. ``image_size`` or ``r``
            may give the resolution. ``wid`` (always null in published files) is ignored.
        resolution: Input side; by default the published one, else the largest.

    Raises:
        ArchError: If a key is unknown, a list has the wrong length, or a value is outside.
    """
    if not isinstance(published, Mapping):
        raise ArchError(f"a published arch is a JSON object, got {published!r}")
    known = {"ks", "e", "d", "w", "image_size", "r", "wid"}
    if unknown := sorted(set(map(str, published)) - known):
        raise ArchError(f"unknown key {unknown[0]!r}; published archs have {sorted(known)}")
    counts = [stage.num_blocks for stage in space.stages]
    largest = space.largest
    expand = published.get("e", [r for stage in largest.expand_ratio for r in stage])
    kernel = published.get("ks", [k for stage in largest.kernel_size for k in stage])
    size = published.get("image_size", published.get("r", space.resolutions[-1]))
    if resolution is None:
        resolution = _size(size)
    depth, stem_depth = _depth(space, published.get("d"))
    arch = Arch(
        resolution=resolution,
        depth=depth,
        kernel_size=_split("ks", kernel, counts),
        expand_ratio=_split("e", expand, counts),
        width_mult=_widths(space, published.get("w")),
        stem_depth=stem_depth,
    )
    return space.check(arch)


def _depth(space: _Space, value: Any) -> tuple[tuple[int, ...], int | None]:
    if value is None:
        return space.largest.depth, space.largest.stem_depth
    flat = _broadcast("d", value, len(space.stages) + bool(space.stem_depths))
    flat = [_whole("d", d) for d in flat]
    fewest = [0] * len(space.stages)
    stem_depth = None
    if space.stem_depths:  # ResNet50D: a stem switch, then blocks beyond the fewest
        stem, *flat = flat
        switch = tuple(range(PUBLISHED_EXTRA_BLOCKS + 1))
        if stem not in switch:
            raise ArchError(f"d[0] {stem} (the stem switch) is not one of {switch}")
        stem_depth = int(stem == PUBLISHED_EXTRA_BLOCKS)
        fewest = [s.num_blocks - PUBLISHED_EXTRA_BLOCKS for s in space.stages]
    depths = []
    options = {d for stage in space.stages for d in stage.depths}
    for i, (d, base, s) in enumerate(zip(flat, fewest, space.stages, strict=True)):
        # A rigid stage (the last one of ProxylessNAS) has one depth whatever is asked for, as
        # published; elsewhere nothing is clipped.
        rigid = s.num_blocks == 1 and d in options
        depths.append(s.num_blocks if rigid else base + d)
        if depths[-1] not in s.depths:
            allowed = tuple(depth - base for depth in s.depths)
            raise ArchError(f"d {d} of stage {i} is not one of {allowed}")
    return tuple(depths), stem_depth


def _widths(space: _Space, value: Any) -> tuple[float, ...]:
    sites = space.width_sites
    if value is None:
        return space.largest.width_mult
    if not sites:
        raise ArchError(f"w {value}: no width of this space is elastic")
    indices = _broadcast("w", value, len(sites))
    for index in indices:
        if index not in range(len(PUBLISHED_WIDTH_MULTS)):
            raise ArchError(f"w {index} is not an index into {PUBLISHED_WIDTH_MULTS}")
    return tuple(PUBLISHED_WIDTH_MULTS[int(index)] for index in indices)


def _size(value: Any) -> int:
    if isinstance(value, list | tuple):
        if len(value) not in (1, 2) or len(set(map(repr, value))) != 1:
            raise ArchError(f"image_size {value} is not one number of pixels")
        value = value[0]
    return _whole("image_size", value)


def _whole(name: str, value: Any) -> int:
    if not is_number(value, -_LARGEST, _LARGEST) or value != int(value):
        raise ArchError(f"{name} {value!r} is not a whole number")
    return int(value)


def _broadcast(name: str, value: Any, count: int) -> list[Any]:
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise ArchError(f"{name} has {len(values)} entries where the space has {count}")
    for each in values:
        if not is_number(each, -_LARGEST, _LARGEST):
            raise ArchError(f"{name} {each!r} is not a number")
    return values


def _split(name: str, value: Any, counts: Sequence[int]) -> tuple[tuple[Any, ...], ...]:
    flat = [
        int(each) if each == int(each) else float(each)
        for each in _broadcast(name, value, sum(counts))
    ]
    stages, start = [], 0
    for count in counts:
        stages.append(tuple(flat[start : start + count]))
        start += count
    return tuple(stages)
