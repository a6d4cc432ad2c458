"""What a report shows, as values: read once, checked once, plain data from then on.

A record of a run is a JSON object that another step wrote, maybe an older version of it, so every
field may be absent. Readers here never fail: what is not there or not a number becomes None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from onceforall.arch import Arch
from onceforall.blueprint import LAYER_TYPES, Blueprint, blueprint_from_json
from onceforall.errors import OnceForAllError
from onceforall.graph import Graph, graph_from_json
from onceforall.measure.comparison import Contender, Pair, read_pair, read_share
from onceforall.measure.costs import count_macs
from onceforall.measure.proportion import Share

Record = Mapping[str, Any]

COSTS = ("latency_ms", "macs", "params")
# Deployment ships nothing above this; the report says which checks hold, so it needs the bound.
MAX_RELATIVE_ERROR = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """A subnet that was evaluated or found by the search.

    Attributes:
        label: Short words that name it.
        arch: The arch, or None where the record has none that can be read.
        top1: Measured accuracy, a fraction.
        predicted_top1: Predicted accuracy, a fraction.
        predicted_std: Standard deviation of the prediction.
        predicted_latency_ms: Predicted latency, where it was measured too.
        costs: What is known of ``latency_ms``, ``macs`` and ``params``.
    """

    label: str
    arch: Arch | None
    top1: float | None
    predicted_top1: float | None
    predicted_std: float | None
    predicted_latency_ms: float | None
    costs: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of a model.

    Attributes:
        key: Name in the card.
        value: The measured error, or whether it holds.
        passed: Whether it holds.
    """

    key: str
    value: float | bool
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A shipped model, from its card.

    Attributes:
        subnet: Name, arch, accuracy on the test images, costs.
        folder: Name of its folder below ``models/``.
        card: The whole card.
        blueprint: The network, or None where the card has none that can be read.
        checks: What was checked.
        alone: What ``ofa baseline`` wrote about the same architecture trained alone; empty where
            it did not, or about another architecture.
    """

    subnet: Subnet
    folder: str
    card: Record
    blueprint: Blueprint | Graph | None
    checks: tuple[Check, ...]
    alone: Record

    @property
    def name(self) -> str:
        """Return its name."""
        return self.subnet.label

    @property
    def share(self) -> Share | None:
        """Return the test top-1 with the images that it was counted on."""
        return read_share(self.card)

    @property
    def pair(self) -> Pair | None:
        """Return the model beside the same architecture trained alone."""
        return read_pair(self.card, self.alone)

    @property
    def verified(self) -> bool:
        """Return whether something was checked and everything holds."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def resolution(self) -> int | None:
        """Return the side of its images, in pixels."""
        side = number(self.card, "resolution")
        if side is None and self.subnet.arch is not None:
            return self.subnet.arch.resolution
        return None if side is None else int(side)


def number(record: Record, key: str) -> float | None:
    """Return a finite number of a record, or None."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def text(record: Record, key: str) -> str | None:
    """Return a string of a record that is not empty, or None."""
    value = record.get(key)
    return value if isinstance(value, str) and value else None


def section(record: Record, key: str) -> Record:
    """Return an object inside a record; empty where there is none."""
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def sequence(record: Record, key: str) -> Sequence[Any]:
    """Return a list inside a record; empty where there is none."""
    value = record.get(key)
    return value if isinstance(value, list | tuple) else ()


def read_subnet(record: Record, *, label: str | None = None) -> Subnet:
    """Return the subnet of an evaluation, of a point of the front, or of a card.

    Args:
        record: The JSON object.
        label: Its name; the arch in short where None.
    """
    arch = _read_arch(record.get("arch"))
    costs = {key: number(record, key) for key in COSTS}
    return Subnet(
        label=label or (str(arch) if arch is not None else "unnamed subnet"),
        arch=arch,
        top1=number(record, "top1"),
        predicted_top1=number(record, "predicted_top1"),
        predicted_std=number(record, "predicted_top1_std"),
        predicted_latency_ms=number(record, "predicted_latency_ms"),
        costs={key: value for key, value in costs.items() if value is not None},
    )


def read_model(card: Record, folder: str, *, alone: Record | None = None) -> Model:
    """Return the model of a card.

    Args:
        card: The card.
        folder: Name of the model's folder.
        alone: What is known of the same architecture trained alone.
    """
    checks = section(card, "checks")
    read = (_read_check(str(key), checks[key]) for key in checks if not _says_less(key, checks))
    return Model(
        subnet=read_subnet(card, label=text(card, "name") or folder),
        folder=folder,
        card=card,
        blueprint=_read_blueprint(card.get("blueprint")),
        checks=tuple(check for check in read if check is not None),
        alone=alone or {},
    )


def contenders(models: Iterable[Model], cost: str) -> list[Contender]:
    """Return the models whose top-1 and cost are known, to see who beats whom."""
    return [
        Contender(name=model.name, top1=share, cost=model.subnet.costs[cost])
        for model in models
        if cost in model.subnet.costs and (share := model.share) is not None
    ]


def _says_less(key: str, checks: Record) -> bool:
    """Say whether the card compares the same thing bit for bit and by its error, and this is less.

    Where the bits are equal the error says nothing; where they are not, the error decides.
    """
    name, _, kind = key.partition("_")
    equal = checks.get(f"{name}_bitwise")
    if kind == "relative_error":
        return equal is True
    return kind == "bitwise" and equal is False and f"{name}_relative_error" in checks


def _read_check(key: str, value: object) -> Check | None:
    if isinstance(value, bool):
        return Check(key=key, value=value, passed=value)
    if isinstance(value, int | float):
        return Check(key=key, value=value, passed=value <= MAX_RELATIVE_ERROR)
    return None


def _read_arch(value: Any) -> Arch | None:
    try:
        return Arch.from_json(value)
    except OnceForAllError:
        return None


def _read_blueprint(value: Any) -> Blueprint | Graph | None:
    """Return a network whose costs can be counted, or None."""
    if isinstance(value, dict) and value.get("type") == "Graph":
        return _read_graph(value)
    try:
        plan = blueprint_from_json(value)
        if not all(_is_layer(layer) for layer in plan.layers):
            return None
        count_macs(plan, resolution=1)
    except (OnceForAllError, TypeError, ZeroDivisionError):
        return None
    return plan if all(isinstance(size, int) for size in plan.stage_sizes) else None


def _read_graph(value: dict[str, Any]) -> Graph | None:
    try:
        graph = graph_from_json(value)
        count_macs(graph, resolution=graph.resolution)
    except (OnceForAllError, TypeError, ValueError, KeyError, AttributeError, IndexError):
        return None
    return graph


def _is_layer(value: object) -> bool:
    """Return whether a value of a file is a layer with fields of the right kinds."""
    if not isinstance(value, LAYER_TYPES):
        return False
    kinds: Mapping[Any, tuple[type, ...]] = {"int": (int,), "bool": (bool,), "float": (int, float)}
    given = ((getattr(value, f.name), kinds.get(f.type, (str,))) for f in fields(value))
    return all(isinstance(item, kind) for item, kind in given)
