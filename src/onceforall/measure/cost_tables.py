"""Costs of whole populations: exact, from gather tables.

A cost is a sum (peak memory: a maximum) of terms, one for each layer position, and each term
depends on a few genes. The terms are enumerated once; positions that share genes are merged into
groups. After that a population costs one small matrix product, which turns rows into table
indices, and one gather for each group.

Shape legend: ``N`` archs, ``G`` genes, ``S`` groups.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.blueprint import GlobalPool, Layer, MaxPool
from onceforall.encoding import Encoding, Rows
from onceforall.errors import ConfigError
from onceforall.genes import Place
from onceforall.measure.costs import layer_macs, layer_params, layer_peak_bytes, output_channels
from onceforall.measure.graph_tables import GraphTerm, graph_terms
from onceforall.space import SearchSpace
from onceforall.supernets.graphs.spec import GraphSpec
from onceforall.supernets.slots import Slot
from onceforall.supernets.spec import SupernetSpec

LayerCost = Callable[[Layer, int], float]
GraphCost = Callable[[Encoding], Sequence[GraphTerm]]
EXACT_COSTS = ("macs", "params", "peak_activation_bytes")
# What a limit may bound: of every shipped model, latency too, which is measured.
COSTS = ("latency_ms", *EXACT_COSTS)

# Entries of one merged table: 8 bytes each, so that a group's table stays in the nearest caches.
_MAX_TABLE_ENTRIES = 8192
# Rows handled at once: the indices and partial sums of a chunk stay in the cache.
_CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CostTable:
    """Gather tables of every cost of a search space; made by :func:`compile_costs`.

    Attributes:
        encoding: Encoding of the rows.
        strides: Weight of each gene in the index of each group, ``(S, G)`` float32 (exact below
            2**24; the groups are far smaller).
        starts: Start of each group's table, ``(S, 1)``.
        tables: All groups' terms of each cost, one after the other: int64 for MACs, params and
            peak bytes, float64 for the others.
    """

    encoding: Encoding
    strides: NDArray[np.float32]
    starts: NDArray[np.intp]
    tables: Mapping[str, NDArray[Any]]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the costs."""
        return tuple(self.tables)

    def macs(self, rows: Rows) -> NDArray[np.int64]:
        """Return the exact multiply-accumulates of each arch, ``(N,)`` int64."""
        return self.evaluate(rows, ("macs",))["macs"]

    def params(self, rows: Rows) -> NDArray[np.int64]:
        """Return the exact number of parameters of each arch, ``(N,)`` int64."""
        return self.evaluate(rows, ("params",))["params"]

    def peak_activation_bytes(self, rows: Rows) -> NDArray[np.int64]:
        """Return the peak activation bytes (fp32, batch 1) of each arch, ``(N,)`` int64."""
        return self.evaluate(rows, ("peak_activation_bytes",))["peak_activation_bytes"]

    def cost(self, name: str) -> Callable[[Rows], NDArray[Any]]:
        """Return the function from rows to one cost.

        Raises:
            ConfigError: If there is no such cost.
        """
        if name not in self.tables:
            raise ConfigError(f"cost {name!r} is not one of {', '.join(self.names)}")
        return lambda rows: self.evaluate(rows, (name,))[name]

    def evaluate(self, rows: Rows, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Return several costs at once.

        Args:
            rows: Rows ``(N, G)``; genes that do not count may have any option.
            names: Costs to return; all by default.

        Returns:
            One array ``(N,)`` for each name.
        """
        wanted = self.names if names is None else tuple(names)
        result = {name: np.empty(len(rows), dtype=self.tables[name].dtype) for name in wanted}
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            index = (self.strides @ rows[chunk].T.astype(np.float32)).astype(np.intp)
            index += self.starts
            for name in wanted:
                terms = self.tables[name].take(index)
                reduce = np.maximum if name == "peak_activation_bytes" else np.add
                reduce.reduce(terms, axis=0, out=result[name][chunk])
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Term:
    """Terms of one or more positions: an array of every cost over the options of some genes."""

    columns: tuple[int, ...]
    values: Mapping[str, NDArray[Any]]


def compile_costs(
    spec: SupernetSpec,
    *,
    space: SearchSpace | None = None,
    layer_costs: Mapping[str, LayerCost] | None = None,
    layer_costs_at: Mapping[str, Callable[[int], LayerCost]] | None = None,
    graph_costs: Mapping[str, GraphCost] | None = None,
) -> CostTable:
    """Return the gather tables of a supernet's costs.

    Args:
        spec: Stage table of the supernet.
        space: Its search space or a restriction of it; the rows are of this space.
        layer_costs: Further additive costs by name: each maps a layer and the side of its input
            to a number, and is called once for each distinct pair and resolution.
        layer_costs_at: Further costs whose layers cost something else at every resolution (a
            latency table for each): each maps a resolution in pixels to its layer cost.
        graph_costs: Further costs of a traced network: each maps the encoding to its terms.

    Returns:
        Tables of ``macs``, ``params``, ``peak_activation_bytes`` and the further costs. A traced
        network with too many branches has no table of its peak memory.

    Raises:
        ConfigError: If a further cost has the name of an exact one.
    """
    same = {name: _at_any(cost) for name, cost in (layer_costs or {}).items()}
    further = same | dict(layer_costs_at or {})
    named = {*further, *(graph_costs or {})}
    if taken := sorted(named & set(EXACT_COSTS) | set(same) & set(layer_costs_at or {})):
        raise ConfigError(f"cost name {taken[0]!r} is taken; {', '.join(EXACT_COSTS)} are built in")
    encoding = Encoding(space or spec.space)
    if isinstance(spec, GraphSpec):
        return _table(encoding, list(_graph_groups(spec, encoding, graph_costs or {})))
    compiler = _Compiler(encoding=encoding, slots=spec.slots, further=further, seen={})
    terms = [compiler.term(position) for position in range(len(spec.slots))]
    return _table(encoding, terms)


def _table(encoding: Encoding, terms: Sequence[_Term]) -> CostTable:
    """Merge terms that share genes and lay them one after the other."""
    groups: list[_Term] = []
    for term in terms:
        merged = _merge(groups[-1], term, encoding) if groups else None
        groups[-1:] = [merged] if merged is not None else [*groups[-1:], term]
    strides = np.zeros((len(groups), encoding.num_genes), dtype=np.float32)
    starts = np.zeros((len(groups), 1), dtype=np.intp)
    for s, group in enumerate(groups):
        sizes = encoding.num_options[list(group.columns)].tolist()
        for i, column in enumerate(group.columns):
            strides[s, column] = math.prod(sizes[i + 1 :])
        starts[s] = sum(math.prod(g.values["macs"].shape) for g in groups[:s])
    return CostTable(
        encoding=encoding,
        strides=strides,
        starts=starts,
        tables={
            name: np.concatenate([group.values[name].ravel() for group in groups])
            for name in groups[0].values
        },
    )


def _graph_groups(
    spec: GraphSpec, encoding: Encoding, further: Mapping[str, GraphCost]
) -> Iterator[_Term]:
    """Yield the terms of a graph's costs, those of the same genes together."""
    terms = graph_terms(spec, encoding)
    for name, cost in further.items():
        terms += [replace(term, cost=name) for term in cost(encoding)]
    names = dict.fromkeys([*(n for n in EXACT_COSTS if any(t.cost == n for t in terms)), *further])
    by_genes: dict[tuple[int, ...], list[GraphTerm]] = {}
    for term in terms:
        by_genes.setdefault(term.columns, []).append(term)
    for columns, same in sorted(by_genes.items()):
        shape = same[0].values.shape
        values: dict[str, NDArray[Any]] = {
            name: np.zeros(shape, dtype=np.int64 if name in EXACT_COSTS else np.float64)
            for name in names
        }
        for term in same:
            reduce = np.maximum if term.cost == "peak_activation_bytes" else np.add
            values[term.cost] = reduce(values[term.cost], term.values)
        yield _Term(columns=columns, values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiler:
    """Enumerates the terms of one position at a time."""

    encoding: Encoding
    slots: tuple[Slot, ...]
    further: Mapping[str, Callable[[int], LayerCost]]
    seen: dict[tuple[Layer, int, int, int], dict[str, Any]]

    def term(self, position: int) -> _Term:
        """Return the costs of one position for every option of the genes it depends on."""
        slot = self.slots[position]
        before = self._channels_slot(position)
        # A slot knows the strides before it, but not that a global pool leaves a 1x1 map.
        pooled = any(isinstance(self._first(slot), GlobalPool) for slot in self.slots[:position])
        resolution: Place = ("resolution", -1, -1)
        places = dict.fromkeys((resolution, *slot.genes, *(before.genes if before else ())))
        # Places that one gene decides go together; a rigid place is on its own.
        deciders = dict.fromkeys(self.encoding.index.get(place, place) for place in places)
        columns = [decider for decider in deciders if isinstance(decider, int)]
        options = {
            self.encoding.index.get(place, place): self.encoding.options(place) for place in places
        }
        shape = tuple(int(self.encoding.num_options[column]) for column in columns)
        cells: dict[str, list[Any]] = {name: [] for name in (*EXACT_COSTS, *self.further)}
        for picked in itertools.product(*(options[decider] for decider in deciders)):
            of = dict(zip(deciders, picked, strict=True))
            values: dict[Place, Any] = {
                place: of[self.encoding.index.get(place, place)] for place in places
            }
            layer = slot.layer(values)
            channels = 3 if before is None else self._channels(before, values)
            size = 1 if pooled else slot.input_size(values[resolution])
            for name, cost in self._costs(layer, size, channels, values[resolution]).items():
                cells[name].append(cost)
        exact = {name: np.array(cells[name], dtype=np.int64) for name in EXACT_COSTS}
        further = {name: np.array(cells[name], dtype=np.float64) for name in self.further}
        tables = {name: cell.reshape(shape) for name, cell in (exact | further).items()}
        return _Term(columns=tuple(columns), values=tables)

    def _channels_slot(self, position: int) -> Slot | None:
        """Return the nearest position before a pooling layer that runs whatever the depth.

        Only pooling records do not name their channels. Positions that depth switches off keep
        the number of channels, so the one that always runs decides it.
        """
        if not isinstance(self._first(self.slots[position]), MaxPool | GlobalPool):
            return None
        for slot in reversed(self.slots[:position]):
            before = self._first(slot)
            if before is not None and output_channels(before, -1) != -1:
                return slot
        return None

    def _first(self, slot: Slot) -> Layer | None:
        """Return the layer of a position when every choice takes its first option."""
        return slot.layer({place: self.encoding.options(place)[0] for place in slot.genes})

    def _channels(self, before: Slot, values: Mapping[Place, Any]) -> int:
        layer = before.layer(values)
        return 3 if layer is None else output_channels(layer, 3)

    def _costs(
        self, layer: Layer | None, size: int, channels: int, resolution: int
    ) -> dict[str, Any]:
        if layer is None:
            return dict.fromkeys((*EXACT_COSTS, *self.further), 0)
        key = (layer, size, channels, resolution)
        if key not in self.seen:
            exact = (
                layer_macs(layer, size),
                layer_params(layer),
                layer_peak_bytes(layer, size, channels),
            )
            further = {name: cost(resolution)(layer, size) for name, cost in self.further.items()}
            self.seen[key] = dict(zip(EXACT_COSTS, exact, strict=True)) | further
        return self.seen[key]


def _at_any(cost: LayerCost) -> Callable[[int], LayerCost]:
    return lambda resolution: cost


def _merge(first: _Term, second: _Term, encoding: Encoding) -> _Term | None:
    """Return one term for both, or None where its table would be too large."""
    columns = tuple(sorted({*first.columns, *second.columns}))
    shape = tuple(int(encoding.num_options[column]) for column in columns)
    if math.prod(shape) > max(_MAX_TABLE_ENTRIES, first.values["macs"].size):
        return None
    spread = [_spread(term, columns) for term in (first, second)]
    values = {
        # Not ascontiguousarray, which gives a table of no genes an axis.
        name: np.array(
            np.broadcast_to(
                np.maximum(spread[0][name], spread[1][name])
                if name == "peak_activation_bytes"
                else spread[0][name] + spread[1][name],
                shape,
            ),
            order="C",
        )
        for name in first.values
    }
    return replace(first, columns=columns, values=values)


def _spread(term: _Term, columns: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Return a term's arrays with one axis for each of ``columns``, of length 1 where unused."""
    order = sorted(range(len(term.columns)), key=lambda i: term.columns[i])
    shape = [-1 if column in term.columns else 1 for column in columns]
    result = {}
    for name, values in term.values.items():
        axes = iter(np.transpose(values, order).shape)
        full = [next(axes) if length == -1 else 1 for length in shape]
        result[name] = np.transpose(values, order).reshape(full)
    return result
