"""A latency table: milliseconds of every distinct layer alone, at some input sizes."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from onceforall.blueprint import (
    Block,
    Bottleneck,
    Conv,
    FusedMBConv,
    GlobalPool,
    Identity,
    Layer,
    Linear,
    MaxPool,
    MBConv,
    Residual,
)
from onceforall.errors import MeasurementError
from onceforall.genes import Place
from onceforall.space import SearchSpace
from onceforall.supernets.spec import TableSpec

_LAYER_TYPES = {
    kind.__name__: kind for kind in (Conv, MBConv, Bottleneck, Residual, FusedMBConv, Linear)
}
_LAYER_READERS = {name: TypeAdapter[Any](kind) for name, kind in _LAYER_TYPES.items()}

T = TypeVar("T")

# Milliseconds of each layer at some input sides, in pixels.
Table = Mapping[Layer, Mapping[int, float]]
# A layer and the side of its input, in pixels.
Entry = tuple[Layer, int]


def space_entries(
    spec: TableSpec,
    *,
    space: SearchSpace | None = None,
    resolutions: Sequence[int] | None = None,
) -> list[Entry]:
    """Return every distinct layer of a space with every input side that it meets.

    Args:
        spec: Stage table of the supernet.
        space: Part of its space; all of it by default.
        resolutions: Image sides; all of the space by default.

    Returns:
        Pairs of a layer (see :func:`timing_key`) and the side of its input.
        Pooling layers are left out: their records do not say how many channels they have.
    """
    space = space or spec.space
    found: dict[Entry, None] = {}
    for resolution in resolutions or space.resolutions:
        pooled = False
        for slot in spec.slots:
            options = [_options(space, gene) for gene in slot.genes]
            for picked in itertools.product(*options):
                layer = slot.layer(dict(zip(slot.genes, picked, strict=True)))
                pooled = pooled or isinstance(layer, GlobalPool)
                if layer is None or isinstance(layer, GlobalPool | MaxPool | Identity):
                    continue
                found[timing_key(layer), 1 if pooled else slot.input_size(resolution)] = None
    return list(found)


def timing_key(layer: Layer) -> Layer:
    """Return the record without what does not change its time: names of ratios, dropout."""
    if isinstance(layer, Block):
        return replace(layer, expand_ratio=0)
    return replace(layer, dropout=0.0) if isinstance(layer, Linear) else layer


def lookup(table: Table, layer: Layer, size: int) -> float | None:
    """Return the milliseconds of a layer alone, or None where the table has nothing near."""
    if isinstance(layer, MaxPool | GlobalPool | Identity):
        return 0.0
    measured = table.get(timing_key(layer))
    if not measured:
        return None
    if size in measured:
        return measured[size]
    sizes = sorted(measured)
    place = bisect.bisect(sizes, size)
    if place in (0, len(sizes)):
        return None
    low, high = sizes[place - 1], sizes[place]
    share = (size**2 - low**2) / (high**2 - low**2)
    return measured[low] + share * (measured[high] - measured[low])


def layer_to_json(layer: Layer) -> dict[str, Any]:
    """Return a layer record as JSON, fields at their default left out."""
    values: dict[str, Any] = {"type": type(layer).__name__}
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if value != field.default:
            values[field.name] = value
    return values


def layer_from_json(value: Mapping[str, Any]) -> Layer:
    """Return the record that :func:`layer_to_json` wrote.

    Raises:
        MeasurementError: If the type is unknown, or a field is missing, unknown or wrong.
    """
    fields = dict(value)
    name = fields.pop("type", "")
    if not isinstance(name, str) or name not in _LAYER_TYPES:
        raise MeasurementError(f"layer {value!r} has a type other than {', '.join(_LAYER_TYPES)}")
    allowed = [field.name for field in dataclasses.fields(_LAYER_TYPES[name])]
    if unknown := [field for field in fields if field not in allowed]:
        raise MeasurementError(f"layer {value!r} has {unknown[0]!r}, not one of {allowed}")
    layer: Layer = read_strictly(_LAYER_READERS[name], fields, what=f"layer {value!r}")
    return layer


def read_strictly(reader: TypeAdapter[T], value: Any, *, what: str) -> T:
    """Return what ``reader`` makes of a JSON value; no text is taken for a number.

    Raises:
        MeasurementError: If it does not fit: ``what`` is damaged, and where, on one line.
    """
    try:
        # Strict, pydantic makes dataclasses of JSON text only.
        return reader.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        said = " ".join(f"{where}: {problem['msg']}".removeprefix(": ").split())
        raise MeasurementError(f"{what} is damaged: {said}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise MeasurementError(f"{what} is damaged: {error}") from error


def _options(space: SearchSpace, gene: Place) -> Sequence[Any]:
    """Return the options of a gene; of depth, only the largest: it decides on or off."""
    axis, stage, _ = gene
    if axis == "depth":
        return space.stages[stage].depths[-1:]
    if axis == "width_mult":
        return space.width_sites[stage]
    if axis == "stem_depth":
        return space.stem_depths
    choices: Mapping[str, Sequence[Any]] = {
        "kernel_size": space.stages[stage].kernel_sizes,
        "expand_ratio": space.stages[stage].expand_ratios,
    }
    return choices[axis]
