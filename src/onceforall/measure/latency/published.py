"""Published latency tables: milliseconds of each layer, by its published key.

A file holds the entries of one image size; each maps a key such as
``expanded_conv-input:56x56x32-output:56x56x32-expand:96-kernel:3-stride:1-idskip:1-se:0-hs:0``
to the mean of its measurements. Shapes are height x width x channels. MobileNetV3 tables name the
middle channels after ``expand``; ProxylessNAS tables name the ratio, have no ``se`` and ``hs``
flags, and no entry for pooling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceforall.blueprint import (
    Blueprint,
    Conv,
    GlobalPool,
    Identity,
    Layer,
    Linear,
    MBConv,
    output_size,
)
from onceforall.errors import MeasurementError
from onceforall.files import reason_of
from onceforall.measure.costs import sized_layers
from onceforall.reading import is_number, named, read_bounded
from onceforall.yaml_text import parse_yaml

_FILE_NAME = re.compile(r"(\d+)_lookup_table\.yaml")
_LOGITS = re.compile(r"Logits-input:\d+x\d+x(\d+)-output:(\d+)")
_MAX_MS = 1e6
_POOL = re.compile(r"AvgPool2D-input:(\d+)x\d+x\d+-output:.*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLatencyTable:
    """Latencies of the layers of one published space at one image size.

    Attributes:
        resolution: Image side that the entries belong to, in pixels.
        entries_ms: Mean milliseconds of every key.
    """

    resolution: int
    entries_ms: Mapping[str, float]

    def latency_ms(self, layer: Layer, size: int) -> float:
        """Return the milliseconds of one layer on an input of side ``size`` pixels.

        Raises:
            MeasurementError: If the table has no entry for it; the entry is named.
        """
        if isinstance(layer, Identity):
            return 0.0
        keys = _keys(layer, size)
        for key in keys:
            if key in self.entries_ms:
                return self.entries_ms[key]
        if isinstance(layer, GlobalPool) and not any(map(_POOL.fullmatch, self.entries_ms)):
            return 0.0  # ProxylessNAS tables count pooling with the classifier
        raise MeasurementError(
            f"latency table of {self.resolution} px has no entry {keys[0]!r} "
            f"among its {len(self.entries_ms)}"
        )

    def network_ms(self, plan: Blueprint) -> float:
        """Return the milliseconds of a whole network: the sum of its layers' entries.

        Raises:
            MeasurementError: If the table has no entry for a layer.
        """
        return sum(self.latency_ms(layer, s) for layer, s, _ in sized_layers(plan, self.resolution))


def read_published_latency(path: Path, *, resolution: int | None = None) -> PublishedLatencyTable:
    """Read one published file.

    Args:
        path: YAML file.
        resolution: Image side of its entries; by default the number its name starts with.

    Raises:
        MeasurementError: If the file is absent or not a published table.
    """
    if resolution is None:
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MeasurementError(f"{path.name} does not start with an image size: give it")
        resolution = int(match[1])
    try:
        content = parse_yaml(read_bounded(named(path)))
    except (OSError, ValueError) as error:
        why = reason_of(error)
        raise MeasurementError(f"{path} is not a published latency table: {why}") from error
    if not isinstance(content, Mapping) or not content:
        raise MeasurementError(f"{path} is not a published latency table: it has no entries")
    entries = {key: _mean_ms(path, key, entry) for key, entry in content.items()}
    return PublishedLatencyTable(resolution=resolution, entries_ms=_with_short_keys(entries))


def _mean_ms(path: Path, key: str, entry: Any) -> float:
    mean = entry.get("mean") if isinstance(entry, Mapping) else None
    if not is_number(mean, 1e-9, _MAX_MS):
        raise MeasurementError(f"{path}: {key}: mean {mean!r} is not a number of milliseconds")
    return float(mean)


def read_published_latencies(folder: Path) -> dict[int, PublishedLatencyTable]:
    """Read every ``<size>_lookup_table.yaml`` of a folder, by image size, ascending.

    Raises:
        MeasurementError: If there is none, or one is not a published table.
    """
    paths = [path for path in folder.glob("*_lookup_table.yaml") if _FILE_NAME.fullmatch(path.name)]
    if not paths:
        raise MeasurementError(f"{folder} has no file named like 224_lookup_table.yaml")
    tables = [read_published_latency(path) for path in paths]
    return {table.resolution: table for table in sorted(tables, key=lambda t: t.resolution)}


def latency_at(
    tables: Mapping[int, PublishedLatencyTable],
) -> Callable[[int], Callable[[Layer, int], float]]:
    """Return the function from an image size to its layer cost, as cost tables take it.

    The same layer has another entry in the table of every image size.
    """

    def at(resolution: int) -> Callable[[Layer, int], float]:
        if resolution not in tables:
            raise MeasurementError(
                f"no latency table for {resolution} px; there are {', '.join(map(str, tables))}"
            )
        return tables[resolution].latency_ms

    return at


def _keys(layer: Layer, size: int) -> tuple[str, ...]:
    """Return the published keys a layer may have, the MobileNetV3 spelling first."""
    after = output_size(layer, size)
    match layer:
        case Conv():
            before = f"input:{size}x{size}x{layer.in_channels}"
            ends = f"{before}-output:{after}x{after}x{layer.out_channels}"
            name = "Conv" if layer.kernel_size > 1 else "Conv_1" if layer.norm else "Conv_2"
            return (f"{name}-{ends}",)
        case MBConv():
            before = f"input:{size}x{size}x{layer.in_channels}"
            ends = f"{before}-output:{after}x{after}x{layer.out_channels}"
            shape = f"kernel:{layer.kernel_size}-stride:{layer.stride}-idskip:{layer.residual:d}"
            flags = f"se:{layer.se_channels > 0:d}-hs:{layer.activation == 'h_swish':d}"
            return (
                f"expanded_conv-{ends}-expand:{layer.mid_channels}-{shape}-{flags}",
                f"expanded_conv-{ends}-expand:{layer.expand_ratio:g}-{shape}",
            )
        case GlobalPool():
            return (f"AvgPool2D-input:{size}",)
        case Linear():
            return (f"Logits-input:{layer.in_features}-output:{layer.out_features}",)
    return (f"{type(layer).__name__}-input:{size}x{size}",)


def _with_short_keys(entries: dict[str, float]) -> dict[str, float]:
    """Add keys for layers whose records do not name the whole shape.

    The classifier's key has the sides of the map before pooling in some tables, and a pooling
    record does not know its channels.
    """
    short = dict(entries)
    for key, mean in entries.items():
        if match := _LOGITS.fullmatch(key):
            short[f"Logits-input:{match[1]}-output:{match[2]}"] = mean
        elif match := _POOL.fullmatch(key):
            short[f"AvgPool2D-input:{match[1]}"] = mean
    return short
