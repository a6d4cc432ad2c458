"""Terms of a graph's costs, for the gather tables of `cost_tables.py`.

A product of two widths is a term of a few genes: those of the two groups, of a kernel, of the
depths that switch the layer off, and the resolution.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.encoding import Encoding
from onceforall.errors import MeasurementError
from onceforall.genes import Place
from onceforall.graph import Computed, Node, Weight, Width
from onceforall.measure.graph_costs import (
    Sum,
    graph_macs,
    graph_params,
    graph_peak_bytes,
    live_sizes,
    node_macs,
    product,
)
from onceforall.supernets.graphs.parts import WeightCut
from onceforall.supernets.graphs.spec import GraphSpec, pattern_width

# A table of more entries than these is not made.
_MOST_ENTRIES = 65536
_RESOLUTION: Place = ("resolution", -1, -1)
# When a layer runs (the depths of each stage at which it does), the block of its elastic kernel,
# and that kernel's largest side.
_Key = tuple[tuple[tuple[int, tuple[bool, ...]], ...], tuple[int, int] | None, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphTerm:
    """One term: an array over the options of some genes.

    Attributes:
        columns: Genes, ascending.
        cost: Name of the cost.
        values: Its numbers, int64 or float64, one axis for each gene.
    """

    columns: tuple[int, ...]
    cost: str
    values: NDArray[Any]


def graph_terms(spec: GraphSpec, encoding: Encoding) -> list[GraphTerm]:
    """Return the terms of ``macs``, ``params`` and, if it has few enough, the peak memory.

    Raises:
        MeasurementError: If the terms do not give the costs of whole networks.
    """
    compiler = TermCompiler(spec, encoding)
    terms = [*compiler.macs(), *compiler.params()]
    peak = compiler.peak()
    archs = _some_archs(spec, encoding)
    graphs = [spec.blueprint(arch) for arch in archs]
    rows = encoding.from_archs(archs)
    for name, count in (("macs", graph_macs), ("params", graph_params)):
        found = evaluate_terms([t for t in terms if t.cost == name], rows, np.add)
        if found.tolist() != [count(graph) for graph in graphs]:
            raise MeasurementError(
                f"the {name} of {spec.name or 'this network'} are no sum of terms"
            )
    if peak and evaluate_terms(peak, rows, np.maximum).tolist() == [
        graph_peak_bytes(graph) for graph in graphs
    ]:
        terms += peak
    return terms


def evaluate_terms(
    terms: Sequence[GraphTerm], rows: NDArray[np.uint8], reduce: np.ufunc
) -> NDArray[Any]:
    """Return the cost of each row, one term after the other."""
    result = np.zeros(len(rows), dtype=terms[0].values.dtype if terms else np.int64)
    for term in terms:
        result = reduce(result, term.values[tuple(rows[:, c] for c in term.columns)])
    return result


def _some_archs(spec: GraphSpec, encoding: Encoding) -> list[Any]:
    space, rng = encoding.space, random.Random(0)
    return [space.smallest, space.largest, *(space.sample(rng) for _ in range(3))]


@dataclass(slots=True)
class TermCompiler:
    """Turns sums of products into tables."""

    spec: GraphSpec
    encoding: Encoding
    active: dict[int, dict[int, tuple[bool, ...]]] = field(default_factory=dict)
    kernels: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.active = dict(_activity(self.spec))
        self.kernels = {
            index: (s, b)
            for s, stage in enumerate(self.spec.stages)
            for b, block in enumerate(stage)
            for index in block.kernels
        }

    # -- costs ----------------------------------------------------------------------------------

    def macs(self) -> Iterator[GraphTerm]:
        """Yield the terms of multiply-accumulates."""
        shapes = {cut.source: symbolic_shape(cut) for cut in self.spec.weights}
        sides = self.encoding.space.resolutions
        lists = [self.spec.nodes[self.spec.resolutions.index(side)] for side in sides]
        sums: dict[_Key, dict[int, Sum]] = {}
        for index, node in enumerate(lists[0]):
            kernel = self.kernels.get(index)
            side = 1 if kernel is None else _side(node, shapes)
            key = (self.depths(index), kernel, side)
            for r, nodes in enumerate(lists):
                macs = node_macs(nodes[index], nodes, shapes)
                if macs.terms:
                    by_side = sums.setdefault(key, {})
                    by_side[r] = by_side.get(r, Sum({})) + _over(macs, side**2)
        for key, by_side in sums.items():
            yield from self.terms("macs", key, [by_side[r] for r in range(len(sides))])

    def params(self) -> Iterator[GraphTerm]:
        """Yield the terms of parameters."""
        nodes = self.spec.nodes[-1]
        readers: dict[Any, list[int]] = {}
        for index, node in enumerate(nodes):
            for part in node.parts():
                if isinstance(part, Weight | Computed):
                    readers.setdefault(part, []).append(index)
            if node.op == "batch_norm":
                readers.setdefault(node.module, []).append(index)
        sums: dict[_Key, Sum] = {}
        for cut in self.spec.weights:
            if cut.kind != "parameter":
                continue
            sites = [self.kernels[i] for i in readers[cut.source] if i in self.kernels]
            kernel, side = (sites[0], cut.kernel) if cut.kernel else (None, 1)
            key = (self.depths(*readers[cut.source]), kernel, side)
            total = _over(product(symbolic_shape(cut)), side**2)
            sums[key] = sums.get(key, Sum({})) + total
        for norm, pattern in self.spec.norms:
            if norm.affine and norm.name in readers:
                key = (self.depths(*readers[norm.name]), None, 1)
                width = pattern_width(pattern) if pattern else norm.channels
                sums[key] = sums.get(key, Sum({})) + product((2, width))
        for key, total in sums.items():
            yield from self.terms("params", key, [total] * len(self.encoding.space.resolutions))

    def peak(self) -> list[GraphTerm]:
        """Return the terms of the peak memory, of which the largest counts; or nothing."""
        result: list[GraphTerm] = []
        sides = self.encoding.space.resolutions
        lists = [self.spec.nodes[self.spec.resolutions.index(side)] for side in sides]
        live = [dict(live_sizes(nodes, self.spec.output)) for nodes in lists]
        for index in live[0]:
            totals = [each[index] for each in live]
            groups = sorted({g for total in totals for names in total.terms for g in names})
            key = (self.depths(index), None, 1)
            table = self._table("peak_activation_bytes", key, totals, groups)
            if table is None:
                return []
            result.append(table)
        return result

    # -- tables ---------------------------------------------------------------------------------

    def kernel_of(self, index: int) -> tuple[tuple[int, int] | None, int]:
        """Return the block of a node's elastic kernel and its largest side; None and 1 without."""
        if index not in self.kernels:
            return None, 1
        node = self.spec.nodes[-1][index]
        return self.kernels[index], 2 * node.args[4][0] + 1

    def columns_of(self, index: int) -> list[int]:
        """Return the genes that a node's weight and input depend on, without depth and side."""
        node = self.spec.nodes[-1][index]
        cut = next(c for c in self.spec.weights if c.source == node.args[1])
        groups = {g for _, pattern in cut.cuts for g, *_ in pattern if g >= 0}
        width = self.spec.nodes[-1][node.inputs[0]].shape
        groups |= {g for size in width for g, _ in getattr(size, "terms", ())}
        places = [_place(self.spec, group) for group in sorted(groups)]
        if index in self.kernels:
            places.append(("kernel_size", *self.kernels[index]))
        return sorted({c for p in places if (c := self.encoding.index.get(p)) is not None})

    def kept(self, columns: Sequence[int], picked: Sequence[int]) -> Any:
        """Return the units that groups keep for options of some genes; others take their first."""
        values = self._values(columns, picked)
        return _Kept(self.spec, _Filled(self.encoding, values))

    def side_at(self, index: int, columns: Sequence[int], picked: Sequence[int]) -> int:
        """Return the kernel side of a node for options of some genes; 0 if it is not elastic."""
        kernel, largest = self.kernel_of(index)
        if kernel is None:
            return 0
        place: Place = ("kernel_size", *kernel)
        return min(largest, int(_Filled(self.encoding, self._values(columns, picked))[place]))

    def weight_at(self, source: Any, kept: Any, side: int) -> tuple[int, ...]:
        """Return the shape of a weight."""
        cut = next(c for c in self.spec.weights if c.source == source)
        shape = [size.at(kept) if isinstance(size, Width) else size for size in symbolic_shape(cut)]
        return (*shape[:-2], side, side) if side else tuple(shape)

    def _values(self, columns: Sequence[int], picked: Sequence[int]) -> dict[Place, Any]:
        genes = [self.encoding.genes[c] for c in columns]
        return {
            (gene.axis, gene.stage, gene.block): gene.choices[option]
            for gene, option in zip(genes, picked, strict=True)
        }

    def dense(
        self, cost: str, index: int, columns: Sequence[int], by_side: Sequence[NDArray[Any]]
    ) -> GraphTerm:
        """Return a node's term from its values for all options of some genes, at every side."""
        depths = self.depths(index)
        place = [("depth", stage, -1) for stage, _ in depths]
        outer = [self.encoding.index.get(p) for p in place]
        resolution = self.encoding.index.get(_RESOLUTION)
        inner = tuple(int(self.encoding.num_options[c]) for c in columns)
        values = np.stack([each.reshape(inner) for each in by_side])
        names: list[int] = [] if resolution is None else [resolution]
        values = values[0] if resolution is None else values
        for (stage, flags), column in zip(depths, outer, strict=True):
            offset = self.encoding.space.stages[stage].depths
            keep = [float(flags[d - self.spec.min_depths[stage]]) for d in offset]
            if column is None:  # one depth
                values = keep[0] * values
                continue
            values = np.multiply.outer(np.array(keep), values)
            names = [column, *names]
        order = np.argsort([*names, *columns])
        return GraphTerm(
            columns=tuple(sorted([*names, *columns])), cost=cost, values=np.transpose(values, order)
        )

    def depths(self, *nodes: int) -> tuple[tuple[int, tuple[bool, ...]], ...]:
        """Return for each stage the depths at which any of some nodes runs, where it matters."""
        found: dict[int, tuple[bool, ...]] = {}
        for stage in range(len(self.spec.stages)):
            flags = [self.active[stage][node] for node in nodes]
            runs = tuple(any(each) for each in zip(*flags, strict=True))
            if not all(runs):
                found[stage] = runs
        return tuple(found.items())

    def terms(self, cost: str, key: _Key, totals: Sequence[Sum]) -> Iterator[GraphTerm]:
        """Yield a table for each product of groups."""
        names = dict.fromkeys(groups for total in totals for groups in total.terms)
        by_genes: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for name in names:
            columns = sorted({c for g in name if (c := self._column(g)) is not None})
            by_genes.setdefault(tuple(columns), []).append(name)
        for same in by_genes.values():
            part = [Sum({g: total.terms.get(g, 0) for g in same}) for total in totals]
            groups = sorted({g for names_of in same for g in names_of})
            table = self._table(cost, key, part, groups)
            if table is None:
                raise MeasurementError(f"a term of {cost} depends on too many choices")
            yield table

    def _column(self, group: int) -> int | None:
        return self.encoding.index.get(_place(self.spec, group))

    def _table(
        self, cost: str, key: _Key, totals: Sequence[Sum], groups: Sequence[int]
    ) -> GraphTerm | None:
        depths, kernel, side = key
        places: dict[Place, None] = {}
        if any(total.terms != totals[0].terms for total in totals):
            places[_RESOLUTION] = None
        places |= {("depth", stage, -1): None for stage, _ in depths}
        if kernel is not None:
            places["kernel_size", kernel[0], kernel[1]] = None
        places |= {_place(self.spec, group): None for group in groups}
        ordered = sorted(places, key=lambda p: self.encoding.index.get(p, -1))
        options = [self.encoding.options(place) for place in ordered]
        if math.prod(len(each) for each in options) > _MOST_ENTRIES:
            return None
        columns = [c for p in ordered if (c := self.encoding.index.get(p)) is not None]
        cells: list[float] = []
        for picked in itertools.product(*options):
            values = dict(zip(ordered, picked, strict=True))
            r = self.encoding.space.resolutions.index(values.get(_RESOLUTION, self._first_side))
            runs = all(
                flags[values["depth", stage, -1] - self.spec.min_depths[stage]]
                for stage, flags in depths
            )
            number = totals[r].at(_Kept(self.spec, values)) if runs else 0  # type: ignore[arg-type]
            if kernel is not None:
                number *= min(values["kernel_size", kernel[0], kernel[1]], side) ** 2
            cells.append(4 * number if cost == "peak_activation_bytes" else number)
        shape = tuple(int(self.encoding.num_options[c]) for c in columns)
        return GraphTerm(columns=tuple(columns), cost=cost, values=np.array(cells).reshape(shape))

    @property
    def _first_side(self) -> int:
        return self.encoding.space.resolutions[0]


@dataclass(frozen=True, slots=True)
class _Kept:
    """Units that each group keeps, for the values of some genes."""

    spec: GraphSpec
    values: Any

    def __getitem__(self, group: int) -> int:
        return self.spec.groups[group].kept(self.values[_place(self.spec, group)])


@dataclass(frozen=True, slots=True)
class _Filled:
    """Values of genes; those that are not given take their first option."""

    encoding: Encoding
    values: Mapping[Place, Any]

    def __getitem__(self, place: Place) -> Any:
        found = self.values.get(place)
        return self.encoding.options(place)[0] if found is None else found


def _place(spec: GraphSpec, group: int) -> Place:
    each = spec.groups[group]
    return (each.axis, each.place[0], each.place[1] if len(each.place) > 1 else -1)


def _activity(spec: GraphSpec) -> Iterator[tuple[int, dict[int, tuple[bool, ...]]]]:
    """Yield for each stage and node whether it runs at each depth, the other stages whole."""
    nodes = spec.nodes[-1]
    for s, stage in enumerate(spec.stages):
        runs: dict[int, list[bool]] = {index: [] for index in range(len(nodes))}
        for depth in range(spec.min_depths[s], len(stage) + 1):
            skips = {total: shortcut for block in stage[depth:] for total, shortcut in block.skips}
            needed = _needed(nodes, spec.output, skips)
            for index, flags in runs.items():
                flags.append(index in needed)
        yield s, {index: tuple(flags) for index, flags in runs.items()}


def _needed(nodes: Sequence[Node], output: int, skips: Mapping[int, int]) -> set[int]:
    needed, left = set(), [output]
    while left:
        index = left.pop()
        while index in skips:
            index = skips[index]
        if index not in needed:
            needed.add(index)
            left += nodes[index].inputs
    return needed


def symbolic_shape(cut: WeightCut) -> tuple[Any, ...]:
    """Return the shape of a tensor with sizes that follow from the groups."""
    shape: list[Any] = list(cut.shape)
    for dim, pattern in cut.cuts:
        shape[dim] = pattern_width(pattern)
    return tuple(shape)


def _over(total: Sum, divisor: int) -> Sum:
    return Sum({groups: number // divisor for groups, number in total.terms.items()})


def _side(node: Node, shapes: Mapping[Any, Sequence[Any]]) -> int:
    return int(shapes[node.args[1]][-1])
