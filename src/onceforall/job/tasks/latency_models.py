"""Latency models on disk: built, listed, shown, compared, and given to a search by device."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onceforall.errors import ConfigError, MeasurementError
from onceforall.files import check_writable, read_json_file, write_json
from onceforall.job.folder import RunFolder
from onceforall.measure.latency.model import LatencyModel, build_latency_model, entries_of
from onceforall.measure.latency.table import space_entries
from onceforall.measure.latency.targets import make_target
from onceforall.measure.ranking import kendall_tau
from onceforall.search.limits import check_limits
from onceforall.supernets.families import published_spec
from onceforall.supernets.spec import GraphSpec, SupernetSpec

_LATENCY = "latency_ms"
_NAME = re.compile(r"[A-Za-z][\w-]*", re.ASCII)


def spec_of(net: str) -> SupernetSpec:
    """Return the stage table of a published supernet or of a run.

    Raises:
        ConfigError: If it is neither.
    """
    folder = RunFolder(path=Path(net))
    if folder.settings.is_file():
        settings = folder.read_settings()
        return folder.read_spec(folder.read_config(settings), settings.data.classes)
    return published_spec(net)


def build_table(
    net: str,
    out: Path,
    *,
    target: str,
    threads: int,
    budget_s: float,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure this machine for a supernet's space and write the latency model to ``out``.

    Measurements are kept beside it (``.jsonl``), so that a stopped build goes on.

    Args:
        net: A published supernet id, or a run.
        out: JSON file to write.
        target: Name of the target, e.g. ``ort-cpu``.
        threads: Threads of a run.
        budget_s: Seconds to measure for.
        seed: Seed of the random networks.
        progress: Told about measurements done.

    Returns:
        The facts that :func:`table_facts` gives.

    Raises:
        ConfigError: If a name is wrong, or ``out`` cannot be written or has the journal's name.
    """
    journal = out.with_suffix(".jsonl")
    if out == journal:
        raise ConfigError(f"{out} is the name of the measurements kept beside it: end it in .json")
    check_writable(out)
    model = build_latency_model(
        spec_of(net),
        target=make_target(target, threads=threads),
        budget_s=budget_s,
        seed=seed,
        journal=journal,
        progress=progress,
    )
    write_json(out, model.to_json())
    return table_facts(out)


def read_table(path: Path) -> LatencyModel:
    """Return the latency model in ``path``.

    Raises:
        ConfigError: If there is no such file, or it is not JSON.
        MeasurementError: If it is not a latency model, or damaged.
    """
    try:
        return LatencyModel.from_json(read_json_file(path))
    except RecursionError as error:
        raise ConfigError(f"{path} is not a JSON file: it is nested too deep") from error
    except MeasurementError as error:
        raise MeasurementError(f"{path}: {error}") from error


def list_tables(folder: Path) -> list[dict[str, Any]]:
    """Return the facts of every latency model in a folder or a run; other JSON is left out.

    Raises:
        ConfigError: If there is none.
        MeasurementError: If one is damaged.
    """
    inside = folder / "latency" if (folder / "latency").is_dir() else folder
    paths = sorted(filter(_may_be_table, inside.glob("*.json"))) if inside.is_dir() else []
    if not paths:
        raise ConfigError(f"{folder} holds no latency models (*.json)")
    return [table_facts(path) for path in paths]


def _may_be_table(path: Path) -> bool:
    """Say whether a JSON file has the entries of a latency model, damaged or not."""
    try:
        value = read_json_file(path)
    except (ConfigError, RecursionError):
        return False
    return isinstance(value, dict) and "table" in value


def table_facts(path: Path, net: str | None = None) -> dict[str, Any]:
    """Return what a latency model says of itself, and which part of a space it covers."""
    model = read_table(path)
    facts = {
        "file": str(path),
        "target": model.target,
        "threads": model.threads,
        "device": model.hardware.device,
        "runtime": model.hardware.runtime,
        "entries": sum(len(sizes) for sizes in model.table.values()),
        **{f"unseen_{name}": value for name, value in model.report.to_json().items()},
    }
    if net is not None:
        spec = spec_of(net)
        # Of a traced network, what a latency table is built of.
        if isinstance(spec, GraphSpec):
            entries = entries_of(spec, spec.space)
        else:
            entries = space_entries(spec)
        missing = model.missing(entries)
        facts["covered"] = f"{len(entries) - len(missing)} of {len(entries)} layers of {net}"
    return facts


def compare_tables(first: Path, second: Path) -> dict[str, Any]:
    """Return how two devices rank and time the layers that both measured.

    Raises:
        ConfigError: If they have fewer than two layers in common.
    """
    one, two = read_table(first), read_table(second)
    pairs = [
        (ms, two.table[layer][size])
        for layer, sizes in one.table.items()
        for size, ms in sizes.items()
        if size in two.table.get(layer, {})
    ]
    if len(pairs) < 2:
        raise ConfigError(f"{first} and {second} have {len(pairs)} layers in common, fewer than 2")
    return {
        "first": f"{one.target} {one.threads}t, {one.hardware.device}",
        "second": f"{two.target} {two.threads}t, {two.hardware.device}",
        "common_entries": len(pairs),
        "kendall_tau": kendall_tau([a for a, _ in pairs], [b for _, b in pairs]),
        "median_ratio": statistics.median(b / a for a, b in pairs),
    }


def named_tables(texts: Sequence[str]) -> dict[str, Path]:
    """Return the tables of ``NAME=PATH`` texts by name; a plain ``PATH`` has the name ``""``.

    A path that itself looks like ``NAME=...`` is written ``./NAME=...``.

    Raises:
        ConfigError: If a name comes twice.
    """
    tables: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (equals and _NAME.fullmatch(name)):
            name, path = "", text
        if name in tables or not path:
            raise ConfigError(f"latency table {text!r} is not of the form NAME=PATH, once per name")
        tables[name] = Path(path)
    return tables


def cost_of(name: str) -> str:
    """Return the cost that a device's table gives: ``latency_ms@NAME``, or ``latency_ms``."""
    return f"{_LATENCY}@{name}" if name else _LATENCY


def device_models(tables: Mapping[str, Path]) -> dict[str, LatencyModel]:
    """Return the latency models of devices, by the name of their cost.

    Args:
        tables: Files of latency models by the name of the device.

    Raises:
        ConfigError: If a name cannot be one, or a file is not there or not JSON.
        MeasurementError: If a file is not a latency model, or damaged.
    """
    for name in tables:
        if name and not _NAME.fullmatch(name):
            raise ConfigError(f"device {name!r} is not a name of letters, digits, - and _")
    return {cost_of(name): read_table(path) for name, path in tables.items()}


def check_device_limits(limits: Mapping[str, float], devices: Sequence[str]) -> None:
    """Raise ConfigError if a limit is of no known cost or device, or not positive."""
    check_limits({name: bound for name, bound in limits.items() if "@" not in name})
    known = [cost_of(name) for name in devices]
    for name, bound in limits.items():
        if "@" not in name:
            continue
        if name not in known:
            device = name.partition("@")[2]
            raise ConfigError(
                f"limit {name!r} needs a latency table of {device!r}; there are tables of "
                f"{', '.join(devices) or 'no device'}"
            )
        if not 0 < bound < math.inf:
            raise ConfigError(f"limit {name}={bound:g} is not a number above 0")
