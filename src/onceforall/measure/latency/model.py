"""Predicted latency: measured blocks, corrected by a few whole networks.

Every distinct layer of a search space is measured alone at a few input sizes (hundreds of tiny
networks, under a minute), then some whole networks. A layer alone is not a layer in its
network: caches are warm, layouts are converted at its ends. So the latency of a network is a
non-negative weighted sum of its layers' table entries and of countable features (MACs by kind,
numbers moved, operations, ...), with weights fitted to the whole networks.

It stays a sum over layers: ``LatencyModel.layer_ms`` is all that a search needs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from onceforall.arch import Arch
from onceforall.blueprint import Blueprint, Layer, Linear
from onceforall.encoding import Encoding
from onceforall.errors import ConfigError, MeasurementError
from onceforall.graph import Graph
from onceforall.measure.costs import count_macs, sized_layers
from onceforall.measure.graph_costs import graph_at
from onceforall.measure.latency.fit import (
    FEATURES,
    LatencyReport,
    fit_and_validate,
    layer_features,
    network_features,
)
from onceforall.measure.latency.graphs import graph_entries, graph_features, graph_latency_terms
from onceforall.measure.latency.journal import Journal
from onceforall.measure.latency.table import (
    Entry,
    Table,
    layer_from_json,
    layer_to_json,
    lookup,
    read_strictly,
    space_entries,
    timing_key,
)
from onceforall.measure.latency.targets import Candidate, Hardware, OrtCpu, Target
from onceforall.space import SearchSpace
from onceforall.supernets.nets import NetPlan
from onceforall.supernets.spec import GraphSpec, SupernetSpec

_FORMAT = "onceforall.latency-model.1"

# Measurements between two writes to the journal.
_CHUNK = 32
# Share of the budget that blocks may take; whole networks correct much of what they lack.
_BLOCK_SHARE = 0.4
_NUM_RESOLUTIONS = 4
_MIN_NETWORKS = 20
_FEWEST = 5
# Features that older files do not have: their weight is 0.
_ADDED_LATER = ("narrow_ms",)

T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatencyModel:
    """Latency of any network made of measured layers, on one device.

    Attributes:
        target: Name of the target.
        threads: Processor threads.
        batch_size: Images in a batch.
        hardware: Device and runtime.
        sentinel_ms: Latency of the sentinel that all entries are scaled to.
        table: Milliseconds of each layer alone, by layer (see :func:`timing_key`) and input side.
        weights: Weight of each feature of ``latency_fit.FEATURES``, none negative.
        report: Errors on networks left out of the fit.
    """

    target: str
    threads: int
    batch_size: int
    hardware: Hardware
    sentinel_ms: float
    table: Table
    weights: Mapping[str, float]
    report: LatencyReport

    def latency_ms(self, plan: NetPlan, *, resolution: int) -> float:
        """Return the milliseconds of a network on images of side ``resolution`` pixels.

        Raises:
            MeasurementError: If a layer is not in the table; it is named.
        """
        if isinstance(plan, Graph):
            weights_F = np.array([self.weights[name] for name in FEATURES])
            return float(weights_F @ graph_features(self.table, graph_at(plan, resolution)))
        return sum(self.layer_ms(layer, size) for layer, size, _ in sized_layers(plan, resolution))

    def layer_ms(self, layer: Layer, size: int) -> float:
        """Return one layer's share of a network's milliseconds.

        The classifier carries the overhead of the whole network, so that the latency is the sum.

        Args:
            layer: Layer record.
            size: Side of its square input, in pixels; 1 after the global pool.

        Raises:
            MeasurementError: If the layer is not in the table, or not near that size.
        """
        weights_F = np.array([self.weights[name] for name in FEATURES])
        return float(weights_F @ layer_features(layer, size, self.table_ms(layer, size)))

    def table_ms(self, layer: Layer, size: int) -> float:
        """Return the milliseconds of a layer alone; between sizes, linear in the pixels.

        Pooling layers have no entry of their own: their records do not say how many channels.

        Raises:
            MeasurementError: If the layer is not in the table, or not near that size.
        """
        found = lookup(self.table, layer, size)
        if found is None:
            raise MeasurementError(
                f"the latency table of {self.target} has no entry for {timing_key(layer)} at "
                f"{size} px: run  ofa latency build NET --target {self.target} "
                f"--threads {self.threads} --out FILE  for its search space"
            )
        return found

    def missing(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the entries (of :func:`latency_table.space_entries`) that have no time here."""
        return [entry for entry in entries if lookup(self.table, *entry) is None]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "format": _FORMAT,
            "target": self.target,
            "threads": self.threads,
            "batch_size": self.batch_size,
            "hardware": self.hardware.to_json(),
            "sentinel_ms": self.sentinel_ms,
            "weights": dict(self.weights),
            "report": self.report.to_json(),
            "table": [
                {
                    "layer": layer_to_json(layer),
                    "ms": {str(size): float(f"{ms:.5g}") for size, ms in sizes.items()},
                }
                for layer, sizes in self.table.items()
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LatencyModel:
        """Return what :meth:`to_json` wrote.

        Raises:
            MeasurementError: If it is not a latency model, or damaged.
        """
        if not isinstance(value, Mapping) or value.get("format") != _FORMAT:
            raise MeasurementError(f"not a latency model ({_FORMAT})")
        file = read_strictly(TypeAdapter(_File), dict(value), what="latency model")
        return cls(
            target=file.target,
            threads=file.threads,
            batch_size=file.batch_size,
            hardware=file.hardware,
            sentinel_ms=file.sentinel_ms,
            table=_table(file.table),
            weights={name: file.weights.get(name, 0.0) for name in FEATURES},
            report=file.report,
        )


# What a file must hold, checked before anything is made of it.
_Size = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}$")]
_Milliseconds = Annotated[float, Field(ge=0)]


class _Line(BaseModel):
    """One layer in a file: milliseconds by input side."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    layer: dict[str, Any]
    ms: dict[_Size, _Milliseconds]


def _table(lines: Sequence[_Line]) -> dict[Layer, dict[int, float]]:
    """Return the table in a file's lines."""
    table: dict[Layer, dict[int, float]] = {}
    for line in lines:
        layer = timing_key(layer_from_json(line.layer))
        if layer in table:
            raise MeasurementError(f"latency model is damaged: {layer} is there twice")
        table[layer] = {int(size): ms for size, ms in line.ms.items()}
    return table


class _File(BaseModel):
    """A latency model as it is in a file; unknown names are left to later versions."""

    model_config = ConfigDict(allow_inf_nan=False)
    target: str
    threads: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    hardware: Hardware
    sentinel_ms: Annotated[float, Field(gt=0)]
    weights: dict[str, _Milliseconds]
    report: LatencyReport
    table: list[_Line]

    @field_validator("weights")
    @classmethod
    def _complete(cls, weights: dict[str, float]) -> dict[str, float]:
        if missing := [n for n in FEATURES if n not in weights and n not in _ADDED_LATER]:
            raise ValueError(f"{missing[0]} is missing")
        if not any(weights.values()):
            raise ValueError("all are 0: every network would take no time")
        return weights


def build_latency_model(
    spec: SupernetSpec,
    *,
    journal: Path,
    target: Target | None = None,
    space: SearchSpace | None = None,
    batch_size: int = 1,
    budget_s: float = 300.0,
    repeats: int = 10,
    num_networks: int = 120,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LatencyModel:
    """Measure blocks and whole networks of a space and fit a latency model.

    Args:
        spec: Stage table of the supernet.
        journal: File of measurements; those in it are not repeated.
        target: Runtime and device; ONNX Runtime on one thread of this processor by default.
        space: Part of the supernet's space to measure; all of it by default.
        batch_size: Images in a batch.
        budget_s: Seconds to measure for, about. A short budget means fewer repeats, then fewer
            networks (at least 20).
        repeats: Samples of each block and network.
        num_networks: Whole networks to measure: the smallest, the largest and random ones.
        seed: Seed of the random networks and of the order of measuring.
        progress: Called with the number of measurements done and of all.

    Raises:
        ConfigError: If the journal is of another target, hardware or batch size.
        MeasurementError: If something cannot be run on the target.
        MissingExtraError: If the target's runtime is not installed.
    """
    target, space = target or OrtCpu(), space or spec.space
    if num_networks < _MIN_NETWORKS:
        raise ConfigError(f"num_networks {num_networks} is below {_MIN_NETWORKS}")
    order = random.Random(seed)
    entries = entries_of(spec, space)
    order.shuffle(entries)
    archs = _networks(space, num_networks, order)
    book = Journal.open(journal, target=target, batch_size=batch_size, repeats=repeats)
    book.progress, book.total = progress, len(entries) + len(archs)
    deadline = time.monotonic() + budget_s

    left = [entry for entry in entries if entry not in book.blocks]
    block_deadline = deadline - (1 - _BLOCK_SHARE) * budget_s
    for chunk, seconds in _shares(left, block_deadline):
        book.measure_blocks(chunk, [_block_candidate(entry) for entry in chunk], seconds)
    unseen = [arch for arch in archs if arch not in book.networks]
    for arch_chunk, seconds in _shares(unseen, deadline):
        if seconds <= 0 and len(book.networks) >= _MIN_NETWORKS:
            break
        candidates = [
            Candidate(plan=spec.blueprint(arch), resolution=arch.resolution, name=str(arch))
            for arch in arch_chunk
        ]
        book.measure_networks(arch_chunk, candidates, seconds)
    return _fit(spec, book, entries, [arch for arch in archs if arch in book.networks])


def _fit(
    spec: SupernetSpec, book: Journal, entries: Sequence[Entry], archs: Sequence[Arch]
) -> LatencyModel:
    """Fit a model to what a journal holds."""
    if book.sentinel_ms is None or len(archs) < _FEWEST:
        raise MeasurementError(
            f"{book.path}: {len(archs)} networks are too few for a latency model, at least "
            f"{_FEWEST} are needed; measure so small a space directly"
        )
    table: dict[Layer, dict[int, float]] = {}
    for layer, size in sorted(entries, key=lambda entry: entry[1]):
        table.setdefault(layer, {})[size] = book.blocks[layer, size]
    plans = [(spec.blueprint(arch), arch.resolution) for arch in archs]
    measured = [book.networks[arch] for arch in archs]
    _, call_N = np.unique([each.sentinel_ms for each in measured], return_inverse=True)
    weights, report = fit_and_validate(
        np.array([_features(table, plan, resolution) for plan, resolution in plans]),
        np.array([each.latency_ms for each in measured]),
        call_N=call_N,
        macs_N=[count_macs(plan, resolution=resolution) for plan, resolution in plans],
        noise=float(np.median([each.standard_error_ms / each.latency_ms for each in measured])),
    )
    return LatencyModel(
        target=book.target.name,
        threads=book.target.threads,
        batch_size=book.batch_size,
        hardware=book.target.hardware,
        sentinel_ms=book.sentinel_ms,
        table=table,
        weights=weights,
        report=report,
    )


def entries_of(spec: SupernetSpec, space: SearchSpace) -> list[Entry]:
    """Return what is measured alone of a space: every distinct layer, at up to four image sides."""
    sides = _thinned(space.resolutions)
    if isinstance(spec, GraphSpec):
        return graph_entries(spec, Encoding(space), sides)
    return space_entries(spec, space=space, resolutions=sides)


def _features(table: Table, plan: NetPlan, resolution: int) -> NDArray[np.float64]:
    """Return the features of a whole network."""
    if isinstance(plan, Graph):
        return graph_features(table, plan)
    return network_features(table, plan, resolution)


def latency_costs(spec: SupernetSpec, models: Mapping[str, LatencyModel]) -> dict[str, Any]:
    """Return predicted latencies as arguments of :func:`~.cost_tables.compile_costs`, by name."""
    if not isinstance(spec, GraphSpec):
        return {"layer_costs": {name: model.layer_ms for name, model in models.items()}}
    return {
        "graph_costs": {
            name: partial(
                graph_latency_terms,
                spec,
                table=model.table,
                weights=dict(model.weights),
                target=model.target,
            )
            for name, model in models.items()
        }
    }


def _shares(items: Sequence[T], deadline: float) -> Iterator[tuple[Sequence[T], float]]:
    """Yield chunks, each with its share of the seconds that are left (0 when late)."""
    for start in range(0, len(items), _CHUNK):
        chunk = items[start : start + _CHUNK]
        left = max(0.0, deadline - time.monotonic())
        yield chunk, left * len(chunk) / (len(items) - start)


def _networks(space: SearchSpace, count: int, order: random.Random) -> list[Arch]:
    """Return the smallest, the largest and random archs, in random order."""
    archs = dict.fromkeys((space.smallest, space.largest))
    for _ in range(20 * count):
        if len(archs) == count:
            break
        archs[space.sample(order)] = None
    shuffled = list(archs)
    order.shuffle(shuffled)
    return shuffled


def _block_candidate(entry: Entry) -> Candidate:
    layer, size = entry
    head = isinstance(layer, Linear)
    plan = Blueprint(
        stem=() if head else (layer,), blocks=(), head=(layer,) if head else (), stage_sizes=()
    )
    return Candidate(plan=plan, resolution=size, name=f"{layer} at {size} px")


def _thinned(resolutions: Sequence[int]) -> list[int]:
    """Return at most four resolutions, evenly spread, the ends among them."""
    places = np.linspace(0, len(resolutions) - 1, min(_NUM_RESOLUTIONS, len(resolutions)))
    return [resolutions[round(place)] for place in places]
