"""Grids: all combinations of chosen options, each one for the whole network."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from onceforall.arch import Arch
from onceforall.errors import ArchError
from onceforall.genes import Axis, Choice, values_of
from onceforall.space import SearchSpace

# Axes in the order of names, and what stands for them there.
_LETTERS: dict[Axis, str] = {
    "resolution": "R", "depth": "D", "expand_ratio": "E", "kernel_size": "K", "width_mult": "W"
}  # fmt: skip


def grid_archs(
    space: SearchSpace, chosen: Mapping[Axis, Sequence[Choice]] | None = None
) -> dict[str, Arch]:
    """Return the archs of a grid by name, such as ``R224-D4-E6-K7``.

    Where stages offer different options of an axis, an option stands for its place among them: the
    smallest depth of one is the smallest depth of all.

    Args:
        space: Where they are from.
        chosen: Options of some axes, as the first place of each axis offers them; of others, and
            of those with none, all.

    Raises:
        ArchError: If an option is unknown, an axis is rigid, or its places do not have as many.

    Source: the published training validates ``R{r}-D{d}-E{e}-K{k}`` combinations.
    """
    genes = space.genes
    options: dict[Axis, tuple[int, ...]] = {}
    for axis in _LETTERS:
        places = [gene.choices for gene in genes if gene.axis == axis]
        wanted = tuple((chosen or {}).get(axis, ()))
        if not places:
            if wanted and tuple(wanted) != values_of(space.largest, axis):
                raise ArchError(f"{axis} {wanted[0]}: no {axis} is elastic in this space")
            continue
        if len({len(choices) for choices in places}) > 1:
            counts = sorted({len(choices) for choices in places})
            raise ArchError(f"{axis} has {counts} options at its places: no grid over it")
        for option in wanted:
            if option not in places[0]:
                raise ArchError(f"{axis} {option} is not one of {places[0]}")
        options[axis] = tuple(
            index for index, choice in enumerate(places[0]) if not wanted or choice in wanted
        )
    found = {}
    for picked in itertools.product(*options.values()):
        at = dict(zip(options, picked, strict=True))
        arch = space.decode([at.get(gene.axis, len(gene.choices) - 1) for gene in genes])
        found[_name(arch, space, at)] = arch
    return found


def _name(arch: Arch, space: SearchSpace, at: Mapping[Axis, int]) -> str:
    """Return the name of a grid's arch: every axis with one value, or that is open."""
    parts = []
    for axis, letter in _LETTERS.items():
        values = values_of(arch, axis)
        if axis in at:
            first = next(gene for gene in space.genes if gene.axis == axis)
            parts.append(f"{letter}{first.choices[at[axis]]:g}")
        elif len(values) == 1:
            parts.append(f"{letter}{values[0]:g}")
    return "-".join(parts)
