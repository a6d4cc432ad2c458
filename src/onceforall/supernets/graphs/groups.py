"""Channel groups: units that no tensor can tell apart, and every size as a sum over groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.graph import Batch, Computed, Weight, Width
from onceforall.supernets.graphs.operands import Channels
from onceforall.supernets.graphs.shapes import padded_dims
from onceforall.supernets.graphs.trace import Program
from onceforall.supernets.graphs.units import Ids

Segment = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Elastic channel groups of a program.

    Attributes:
        sizes: Units of each group.
        channels: Channels that a unit counts in the layer that makes it.
        group_of: Group of each id's unit, -1 where it is rigid, ``(ids,)``.
        unit_of: Number of each id's unit in its group, ``(ids,)``.
        makers: Nodes that make channels of each group.
        nodes: Nodes whose result has channels of each group.
        widths: Varying dimension of each node's result and its size; absent where rigid.
        vectors: Ids along that dimension.
    """

    sizes: tuple[int, ...]
    channels: tuple[int, ...]
    group_of: NDArray[np.int64]
    unit_of: NDArray[np.int64]
    makers: tuple[frozenset[int], ...]
    nodes: tuple[frozenset[int], ...]
    widths: dict[int, tuple[int, Width]]
    vectors: dict[int, Ids]

    def width(self, ids: Ids) -> Width:
        """Return the size of a dimension with these unit roots."""
        groups = self.group_of[ids]
        counts = np.bincount(groups[groups >= 0], minlength=len(self.sizes))
        terms = tuple((int(g), int(counts[g]) // self.sizes[g]) for g in np.flatnonzero(counts))
        return Width(int((groups < 0).sum()), terms)

    def segments(self, ids: Ids) -> tuple[Segment, ...]:
        """Return the pattern of a dimension, run by run: group, first unit, units, repeats.

        Each unit of a run comes ``repeats`` times before the next; a rigid run has group -1.
        """
        group, unit = self.group_of[ids], np.where(self.group_of[ids] < 0, 0, self.unit_of[ids])
        new = np.flatnonzero((np.diff(group) != 0) | (np.diff(unit) != 0)) + 1
        starts = np.concatenate([[0], new])
        lengths = np.diff(np.concatenate([starts, [len(ids)]]))
        runs: list[list[int]] = []
        for g, u, n in zip(
            group[starts].tolist(), unit[starts].tolist(), lengths.tolist(), strict=True
        ):
            last = runs[-1] if runs else None
            if g >= 0 and last and last[0] == g and last[1] + last[2] == u and last[3] == n:
                last[2] += 1
            else:
                runs.append([g, u, 1, n])
        return tuple((g, u, c, n) for g, u, c, n in runs)


def channel_groups(program: Program, found: Channels) -> Groups:
    """Return the groups of a program's units.

    Units are of one group if every tensor has them alike: so the size of any dimension follows
    from how many units of each group stay, whichever they are.
    """
    roots = found.units.find(np.arange(len(found.units.parent)))
    vectors: dict[int, Ids] = {}
    places: dict[int, int] = {}
    slots: list[Ids] = []
    for index, ids in enumerate(found.ids):
        dim, vector = _vector(roots[ids])
        if vector is not None:
            vectors[index], places[index] = vector, dim
            slots.append(vector)
            node = program.nodes[index]
            if node.op == "slice" and node.args[1] == dim:
                before = _vector(roots[found.ids[node.args[0].index]])[1]
                assert before is not None
                slots += [before[: node.args[2]], before[: node.args[3]]]
            if node.op == "pad.default" and dim in padded_dims(node, len(node.shape)):
                first, last = padded_dims(node, len(node.shape))[dim]
                slots += [vector[:first], vector[len(vector) - last :]]
    for ids in found.whole.values():
        vector = _vector(roots[ids])[1]
        if vector is not None:
            slots.append(vector)
    made = [roots[ids] for (_, dim), ids in found.along.items() if dim == 0]
    slots += [roots[ids] for ids in found.along.values()]
    signature = _signatures(slots, len(roots))
    elastic = np.zeros(len(roots), dtype=bool)
    for ids in made:
        elastic[ids] = True
    elastic[0] = False
    units = np.flatnonzero(elastic)
    return _grouped(program, found, roots, units, signature, places, vectors)


def _vector(ids: Ids) -> tuple[int, Ids | None]:
    """Return the dimension along which unit roots differ, and the roots along it."""
    for dim, size in enumerate(ids.shape):
        if size > 1:
            line = np.moveaxis(ids, dim, 0).reshape(size, -1)[:, 0]
            if (line != line[0]).any():
                return dim, line
    if ids.size and ids.flat[0]:  # one unit along the longest dimension: it cannot be cut
        return 0, None
    return 0, None


def _signatures(slots: list[Ids], count: int) -> NDArray[np.uint64]:
    """Return a number for each unit: equal if every slot has the units equally often."""
    random = np.random.default_rng(0)
    signature = np.zeros(count, dtype=np.uint64)
    seen: set[bytes] = set()
    for slot in slots:
        key = slot.tobytes()
        if key in seen:
            continue
        seen.add(key)
        signature += np.bincount(slot, minlength=count).astype(np.uint64) * random.integers(
            1, 2**63, dtype=np.uint64
        )
    return signature


def _grouped(
    program: Program,
    found: Channels,
    roots: Ids,
    units: Ids,
    signature: NDArray[np.uint64],
    places: dict[int, int],
    vectors: dict[int, Ids],
) -> Groups:
    members: dict[int, list[int]] = {}
    for unit in units.tolist():
        members.setdefault(int(signature[unit]), []).append(unit)
    lists = [each for each in members.values() if len(each) > 1]
    group_of = np.full(len(roots), -1, dtype=np.int64)
    unit_of = np.zeros(len(roots), dtype=np.int64)
    for g, each in enumerate(lists):
        group_of[each], unit_of[each] = g, np.arange(len(each))
    group_of, unit_of = group_of[roots], unit_of[roots]
    makers: list[set[int]] = [set() for _ in lists]
    channels = [1] * len(lists)
    for index, (start, count) in found.makers.items():
        groups, counts = np.unique(group_of[start : start + count], return_counts=True)
        for g, n in zip(groups.tolist(), counts.tolist(), strict=True):
            if g >= 0:
                makers[g].add(index)
                channels[g] = max(channels[g], n // len(lists[g]))
    result = Groups(
        sizes=tuple(len(each) for each in lists),
        channels=tuple(channels),
        group_of=group_of,
        unit_of=unit_of,
        makers=tuple(frozenset(each) for each in makers),
        nodes=(),
        widths={},
        vectors=vectors,
    )
    nodes: list[set[int]] = [set() for _ in lists]
    for index, vector in vectors.items():
        width = result.width(vector)
        for g, _ in width.terms:
            nodes[g].add(index)
        if width.terms:
            size = program.nodes[index].shape[places[index]]
            if isinstance(size, Batch):  # ids count a batch twice
                width = Width(width.fixed // 2, tuple((g, n // 2) for g, n in width.terms))
            result.widths[index] = (places[index], width)
    return Groups(
        **{name: getattr(result, name) for name in Groups.__slots__ if name != "nodes"},
        nodes=tuple(frozenset(each) for each in nodes),
    )


def constant_cuts(
    found: Channels, groups: Groups
) -> dict[Weight | Computed, tuple[tuple[int, tuple[Segment, ...]], ...]]:
    """Return the dimensions along which each constant is cut, with their patterns."""
    roots = found.units.find(np.arange(len(found.units.parent)))
    cuts: dict[Any, list[tuple[int, tuple[Segment, ...]]]] = {}
    for constant, ids in found.whole.items():
        dim, vector = _vector(roots[ids])
        if vector is not None and groups.width(vector).terms:
            cuts.setdefault(constant, []).append((dim, groups.segments(vector)))
    for (constant, dim), ids in found.along.items():
        if groups.width(roots[ids]).terms:
            cuts.setdefault(constant, []).append((dim, groups.segments(roots[ids])))
    return {constant: tuple(sorted(each)) for constant, each in cuts.items()}
