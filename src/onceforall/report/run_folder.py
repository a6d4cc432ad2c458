"""Reading a run folder, finished or not.

    run.yaml              resolved configuration; also data, versions, hardware, seed
    events.jsonl          epochs, rollbacks, steps done
    checkpoints/supernet.json   the stage table, for costs that records do not name
    evaluations*.jsonl    subnets and their measured accuracy; one file for each rank
    latency/*.json        measured latency tables
    predictor.json        quality of the accuracy predictor on held-out subnets
    search/front.json     the predicted Pareto front
    search/confirmed.json candidates of the front, measured
    models/*/card.json    the shipped models
    baselines/*.json      their architectures trained alone

Whatever is missing or cannot be read becomes a line in :attr:`Run.notes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceforall.errors import CheckpointError, ConfigError
from onceforall.files import read_json, read_jsonl, reason_of
from onceforall.measure.comparison import supernet_seconds
from onceforall.reading import read_bounded
from onceforall.report.costs import cost_counter
from onceforall.report.records import (
    Model,
    Record,
    Subnet,
    number,
    read_model,
    read_subnet,
    section,
    sequence,
    text,
)
from onceforall.yaml_text import parse_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that the report shows.

    Attributes:
        name: Name of the folder.
        settings: Contents of ``run.yaml``.
        epochs: Epoch events, one for each count of epochs done, ascending.
        rollbacks: Rollback events with the epochs done before them under ``epochs_done``.
        steps: Seconds of every step of the job, in the order in which they ended.
        samples: Subnets evaluated on the validation images.
        predictor: Quality of the accuracy predictor on held-out subnets.
        search: Contents of ``search/front.json``.
        front: Points of the predicted front.
        latency: File name and contents of each latency table.
        models: Shipped models, fastest first.
        supernet_s: Seconds that training the supernet took, if known.
        notes: What is missing, in sentences.
    """

    name: str
    settings: Record
    epochs: tuple[Record, ...]
    rollbacks: tuple[Record, ...]
    steps: tuple[tuple[str, float], ...]
    samples: tuple[Subnet, ...]
    predictor: Record
    search: Record
    front: tuple[Subnet, ...]
    latency: tuple[tuple[str, Record], ...]
    models: tuple[Model, ...]
    supernet_s: float | None
    notes: tuple[str, ...]


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        ConfigError: If ``folder`` is not a folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"run folder {str(folder)!r} is not a folder")
    notes: list[str] = []
    settings = _read(folder / "run.yaml", _read_yaml, "run.yaml", notes)
    events = _read_lines(folder / "events.jsonl", "events.jsonl", notes)
    epochs, rollbacks = _training(events)
    if not epochs:
        notes.append("Training: no finished epoch in events.jsonl yet.")
    supernet = _read(folder / "checkpoints" / "supernet.json", read_json, "the supernet", notes)
    samples = _read_samples(folder, notes)
    if not samples:
        notes.append("Evaluation: no subnet has been evaluated yet.")
    predictor = _read(folder / "predictor.json", read_json, "predictor.json", notes)
    search = _read(folder / "search" / "front.json", read_json, "search/front.json", notes)
    latency = tuple(
        (path.name, _read(path, read_json, f"latency/{path.name}", notes))
        for path in sorted((folder / "latency").glob("*.json"))
    )
    if not latency:
        notes.append("Latency: no table in latency/ yet.")
    models = _read_models(folder / "models", notes)
    counter = cost_counter(supernet, [table for _, table in latency], models)
    return Run(
        name=folder.resolve().name,
        settings=settings,
        epochs=epochs,
        rollbacks=rollbacks,
        steps=_steps(events),
        samples=tuple(map(counter.complete, samples)),
        predictor=section(predictor, "report") or predictor,
        search=search,
        front=tuple(counter.complete(read_subnet(point)) for point in _points(search)),
        latency=latency,
        models=models,
        supernet_s=supernet_seconds(events),
        notes=tuple(notes),
    )


def _read_samples(folder: Path, notes: list[str]) -> tuple[Subnet, ...]:
    """Return the evaluated subnets, the candidates that the search confirmed among them.

    Of one that was evaluated twice, the last measurement counts.
    """
    found: list[Subnet] = []
    for path in sorted(folder.glob("evaluations*.jsonl")):
        found += [read_subnet(record) for record in _read_lines(path, path.name, notes)]
    path = folder / "search" / "confirmed.json"
    if path.is_file():
        confirmed = _read(path, read_json, "search/confirmed.json", notes)
        found += [
            read_subnet({**point, "top1": point.get("valid_top1")}) for point in _points(confirmed)
        ]
    samples: dict[Any, Subnet] = {}
    for subnet in found:
        if subnet.top1 is not None:
            samples[subnet.arch or len(samples)] = subnet
    return tuple(samples.values())


def _points(record: Record) -> list[Record]:
    return [point for point in sequence(record, "points") if isinstance(point, dict)]


def _read_models(folder: Path, notes: list[str]) -> tuple[Model, ...]:
    models = []
    places = sorted(path for path in folder.glob("*") if path.is_dir())
    for place in places:
        if not (place / "card.json").is_file():
            notes.append(f"Model {place.name}: not finished, it has no card.json.")
            continue
        card = _read(place / "card.json", read_json, f"models/{place.name}/card.json", notes)
        if card:
            alone = _read_baseline(folder.parent / "baselines" / f"{place.name}.json", notes)
            models.append(read_model(card, place.name, alone=alone))
    if not places:
        notes.append("Models: none has been exported yet.")
    unknown = float("inf")
    models.sort(
        key=lambda m: (
            m.subnet.costs.get("latency_ms", unknown),
            m.subnet.costs.get("macs", unknown),
            m.folder,
        )
    )
    return tuple(models)


def _read_baseline(path: Path, notes: list[str]) -> Record:
    """Return what is known of an architecture trained alone; a run need not have it."""
    return _read(path, read_json, f"baselines/{path.name}", notes) if path.is_file() else {}


def _training(events: list[Record]) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Split off epochs and rollbacks; an epoch that was run again counts once, the last time."""
    epochs: dict[int, Record] = {}
    rollbacks: list[Record] = []
    for event in events:
        done = number(event, "epochs_done")
        if event.get("event") == "epoch" and done is not None:
            epochs[int(done)] = event
        elif event.get("event") == "rollback":
            rollbacks.append({**event, "epochs_done": max(epochs, default=0)})
    return tuple(epochs[done] for done in sorted(epochs)), tuple(rollbacks)


def _steps(events: list[Record]) -> tuple[tuple[str, float], ...]:
    """Return the seconds of each step; a step that was continued counts all its parts."""
    seconds: dict[str, float] = {}
    for event in events:
        name, spent = text(event, "step"), number(event, "seconds")
        if event.get("event") == "step_done" and name is not None and spent is not None:
            seconds[name] = seconds.get(name, 0.0) + spent
    return tuple(seconds.items())


def _read_yaml(path: Path) -> Any:
    return parse_yaml(read_bounded(path))


def _read(path: Path, reader: Callable[[Path], Any], name: str, notes: list[str]) -> Record:
    """Return an object from a file; note why there is none."""
    if not path.is_file():
        notes.append(f"{name} is not there yet.")
        return {}
    try:
        value = reader(path)
    except (OSError, ValueError, CheckpointError) as error:
        notes.append(f"{name} cannot be read: {reason_of(error)[:200]}")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{name} does not hold an object.")
        return {}
    return value


def _read_lines(path: Path, name: str, notes: list[str]) -> list[Record]:
    try:
        lines = read_jsonl(path)
    except (OSError, CheckpointError) as error:
        notes.append(f"{name} cannot be read: {reason_of(error)[:200]}")
        return []
    return [line for line in lines if isinstance(line, dict)]
