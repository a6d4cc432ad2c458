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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from onceforall.artifacts import (
    Baseline,
    Card,
    ConfirmedFile,
    Epoch,
    Evaluation,
    FrontFile,
    RunSettings,
)
from onceforall.artifacts.record import Record
from onceforall.errors import CheckpointError, ConfigError, OnceForAllError
from onceforall.files import read_jsonl, read_object
from onceforall.graph import Graph
from onceforall.measure.comparison import supernet_seconds
from onceforall.measure.latency.model import LatencyModel
from onceforall.predictors.accuracy import PredictorReport
from onceforall.report.costs import cost_counter
from onceforall.report.records import Model, Subnet, read_model, read_subnet
from onceforall.supernets.graphs.network import check_graph
from onceforall.supernets.spec import SupernetSpec
from onceforall.supernets.weights import spec_from_json

Event = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that the report shows.

    Attributes:
        name: Name of the folder.
        settings: Contents of ``run.yaml``, if it is there.
        epochs: Epochs done, ascending.
        rollbacks: Epochs done before each rollback.
        steps: Seconds of every step of the job, in the order in which they ended.
        samples: Subnets evaluated on the validation images.
        predictor: Quality of the accuracy predictor on held-out subnets, if known.
        search: Contents of ``search/front.json``, if it is there.
        front: Points of the predicted front.
        latency: Name and contents of each latency table.
        models: Shipped models, fastest first.
        supernet_s: Seconds that training the supernet took, if known.
        notes: What is missing, in sentences.
    """

    name: str
    settings: RunSettings | None
    epochs: tuple[Epoch, ...]
    rollbacks: tuple[float, ...]
    steps: tuple[tuple[str, float], ...]
    samples: tuple[Subnet, ...]
    predictor: PredictorReport | None
    search: FrontFile | None
    front: tuple[Subnet, ...]
    latency: tuple[tuple[str, LatencyModel], ...]
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
    notes = _Notes(folder, [])
    settings = notes.read("run.yaml", RunSettings.read)
    events = notes.read("events.jsonl", read_jsonl, needed=False) or []
    epochs, rollbacks = _training(events, notes)
    if not epochs:
        notes.add("Training: no finished epoch in events.jsonl yet.")
    spec = notes.read("checkpoints/supernet.json", _spec)
    samples = _samples(folder, notes)
    # A run that ships a grid looks for nothing.
    is_found = settings is None or not settings.config.get("grid", {}).get("ship")
    if not samples and is_found:
        notes.add("Evaluation: no subnet has been evaluated yet.")
    predictor = notes.read("predictor.json", _PredictorFile.read)
    search = notes.read("search/front.json", FrontFile.read)
    tables = {
        path.stem: notes.read(f"latency/{path.name}", _latency)
        for path in sorted((folder / "latency").glob("*.json"))
    }
    if not tables and is_found:
        notes.add("Latency: no table in latency/ yet.")
    latency = tuple((name, table) for name, table in tables.items() if table is not None)
    models = _models(folder, notes)
    counter = cost_counter(spec, [table for _, table in latency], [m.card for m in models])
    points = () if search is None else search.points
    return Run(
        name=folder.resolve().name,
        settings=settings,
        epochs=epochs,
        rollbacks=rollbacks,
        steps=_steps(events),
        samples=tuple(map(counter.complete, samples)),
        predictor=None if predictor is None else predictor.report,
        search=search,
        front=tuple(counter.complete(read_subnet(point)) for point in points),
        latency=latency,
        models=models,
        supernet_s=supernet_seconds(events),
        notes=tuple(notes.lines),
    )


class _PredictorFile(Record):
    """What is read of ``predictor.json``."""

    report: PredictorReport | None = None


@dataclass(frozen=True, slots=True)
class _Notes:
    """What is missing in a folder, collected while it is read."""

    folder: Path
    lines: list[str]

    def add(self, line: str) -> None:
        self.lines.append(line)

    def read(self, name: str, reader: Callable[[Path], T], *, needed: bool = True) -> T | None:
        """Return what a reader makes of a file; where it is absent or damaged, None and a note.

        Args:
            name: The file, relative to the folder.
            reader: Returns its contents.
            needed: Note that it is absent.
        """
        path = self.folder / name
        if not path.is_file():
            if needed:
                self.add(f"{name} is not there yet.")
            return None
        try:
            return reader(path)
        except (OnceForAllError, OSError, ValueError) as error:
            said = " ".join(str(error).replace(str(path), name).split())[:200]
            self.add(said if said.startswith(name) else f"{name} cannot be read: {said}")
            return None


def _spec(path: Path) -> SupernetSpec:
    return spec_from_json(read_object(path).get("spec"))


def _latency(path: Path) -> LatencyModel:
    return LatencyModel.from_json(read_object(path))


def _training(events: list[Event], notes: _Notes) -> tuple[tuple[Epoch, ...], tuple[float, ...]]:
    """Split off epochs and rollbacks; an epoch that was run again counts once, the last time."""
    epochs: dict[float, Epoch] = {}
    rollbacks: list[float] = []
    for event in events:
        if event.get("event") == "rollback":
            rollbacks.append(max(epochs, default=0))
        elif event.get("event") == "epoch":
            try:
                epoch = Epoch.from_json(event, where="events.jsonl")
            except CheckpointError as error:
                notes.add(str(error))
            else:
                epochs[epoch.epochs_done] = epoch
    return tuple(epochs[done] for done in sorted(epochs)), tuple(rollbacks)


def _steps(events: list[Event]) -> tuple[tuple[str, float], ...]:
    """Return the seconds of each step; a step that was continued counts all its parts."""
    seconds: dict[str, float] = {}
    for event in events:
        name, spent = event.get("step"), event.get("seconds")
        if event.get("event") == "step_done" and isinstance(spent, int | float):
            seconds[str(name)] = seconds.get(str(name), 0.0) + spent
    return tuple(seconds.items())


def _samples(folder: Path, notes: _Notes) -> tuple[Subnet, ...]:
    """Return the evaluated subnets, the candidates that the search confirmed among them.

    Of one that was evaluated twice, the last measurement counts.
    """
    names = sorted(path.name for path in folder.glob("evaluations*.jsonl"))
    found = [line for name in names for line in notes.read(name, Evaluation.read_lines) or ()]
    samples = {line.arch: read_subnet(line) for line in found}
    confirmed = notes.read("search/confirmed.json", ConfirmedFile.read, needed=False)
    if confirmed is not None:
        samples |= {point.arch: read_subnet(point) for point in confirmed.points}
    return tuple(samples.values())


def _card(path: Path) -> Card:
    """Return a card whose network can be drawn and counted."""
    card = Card.read(path)
    if isinstance(card.blueprint, Graph):
        check_graph(card.blueprint)
    return card


def _models(folder: Path, notes: _Notes) -> tuple[Model, ...]:
    names = sorted(path.name for path in (folder / "models").glob("*") if path.is_dir())
    if not names:
        notes.add("Models: none has been exported yet.")
    models = []
    for name in names:
        if not (folder / "models" / name / "card.json").is_file():
            notes.add(f"Model {name}: not finished, it has no card.json.")
            continue
        card = notes.read(f"models/{name}/card.json", _card)
        if card is not None:
            alone = notes.read(f"baselines/{name}.json", Baseline.read, needed=False)
            models.append(read_model(card, folder=name, alone=alone))
    return tuple(sorted(models, key=lambda m: (m.card.latency_ms, m.card.macs, m.folder)))
