"""Several runs beside one another: models, what they come to, the settings that differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceforall.artifacts import Card
from onceforall.errors import ConfigError
from onceforall.measure.comparison import beaten_by, contenders
from onceforall.pareto import hypervolume
from onceforall.report.run_folder import Run, read_run

SIDE_BY_SIDE = (
    "Latency is as measured when each run shipped, and a machine is not always as fast: "
    "ofa latency measure RUN RUN  measures all models side by side."
)
# The slowest models count too: limits go so far beyond them.
_BEYOND_SLOWEST = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Runs that are compared.

    Attributes:
        names: What to call each; told apart by their folders where names are alike.
        runs: The runs.
        limit_ms: Latency limits up to this count; None where no run has models.
        volumes: Of each run, the hypervolume of its models over latency and error, as a share:
            the mean test top-1 of the best model over all latency limits up to ``limit_ms``.
        settings: Each setting that differs, and its value in each run as text.
        warnings: Why figures cannot be compared, in sentences.
    """

    names: tuple[str, ...]
    runs: tuple[Run, ...]
    limit_ms: float | None
    volumes: tuple[float, ...]
    settings: tuple[tuple[str, tuple[str, ...]], ...]
    warnings: tuple[str, ...]

    @property
    def cards(self) -> list[Card]:
        """Return the cards of all models, fastest first, named after their runs too."""
        found = [
            model.card.model_copy(update={"name": f"{name}/{model.card.name}"})
            for name, run in zip(self.names, self.runs, strict=True)
            for model in run.models
        ]
        return sorted(found, key=lambda card: (card.latency_ms, card.macs, card.name))

    @property
    def beaten(self) -> dict[str, str]:
        """Return which model of any run beats each that is beaten, by the names of ``cards``."""
        return beaten_by(contenders(self.cards))

    @property
    def on_front(self) -> tuple[int, ...]:
        """Return of each run how many of its models no other beats beyond noise.

        Models of older versions, which do not tell how many images measured them, do not count.
        """
        beaten = self.beaten
        left = {each.name for each in contenders(self.cards) if each.name not in beaten}
        return tuple(
            sum(f"{name}/{model.card.name}" in left for model in run.models)
            for name, run in zip(self.names, self.runs, strict=True)
        )

    @property
    def epochs(self) -> tuple[str, ...]:
        """Return the epochs that each supernet was trained for; a dash where none are known."""
        return tuple(map(_epochs, self.runs))


def compare_runs(folders: Sequence[Path]) -> Compared:
    """Return runs beside one another.

    Raises:
        ConfigError: If there are fewer than two, or one is no run.
    """
    if len(folders) < 2:
        raise ConfigError(f"{len(folders)} run is nothing to compare: name two or more")
    runs = tuple(map(read_run, folders))
    for folder, run in zip(folders, runs, strict=True):
        if run.settings is None:
            why = next((note for note in run.notes if note.startswith("run.yaml")), "no run.yaml")
            raise ConfigError(f"{folder} is not the folder of a run: {why}")
    plain = [run.name for run in runs]
    alike = len(set(plain)) < len(plain)
    slowest = max((m.card.latency_ms for run in runs for m in run.models), default=None)
    limit_ms = None if slowest is None else _BEYOND_SLOWEST * slowest
    return Compared(
        names=tuple(map(str, folders)) if alike else tuple(plain),
        runs=runs,
        limit_ms=limit_ms,
        volumes=tuple(_volume(run, limit_ms) for run in runs),
        settings=_differing(runs),
        warnings=tuple(_warnings(runs)),
    )


def _points(run: Run) -> list[tuple[float, float]]:
    return [(model.card.latency_ms, 1 - model.card.top1) for model in run.models]


def _volume(run: Run, limit_ms: float | None) -> float:
    if limit_ms is None or not run.models:
        return 0.0
    return hypervolume(_points(run), (limit_ms, 1.0)) / limit_ms


def _epochs(run: Run) -> str:
    settings = run.settings
    if settings is None or settings.epochs_trained is None:
        return "-"
    more = settings.config.get("train", {}).get("more_epochs", [])
    return f"{settings.epochs_trained + sum(more):g}"


def _differing(runs: Sequence[Run]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the settings that are not the same in all runs; a dash where one has none."""
    flat = [_flat(_decided(run)) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = ((key, tuple(values.get(key, "-") for values in flat)) for key in keys)
    return tuple((key, values) for key, values in rows if len(set(values)) > 1)


def _decided(run: Run) -> dict[str, Any]:
    """Return what decides the results of a run."""
    settings = run.settings
    if settings is None:
        return {}
    machine = {"cpu": settings.hardware.get("cpu"), "gpu": settings.hardware.get("gpu")}
    return {**settings.config, "budget_s": settings.budget_s, "hardware": machine}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def _warnings(runs: Sequence[Run]) -> list[str]:
    """Say what makes figures of the runs incomparable."""
    found = []
    data = {run.settings.data.fingerprint for run in runs if run.settings is not None}
    if len(data) > 1:
        found.append("The runs have different images: their accuracies do not compare.")
    targets = {
        (m.card.target.name, m.card.target.threads, str(m.card.target.hardware.get("device")))
        for run in runs
        for m in run.models
    }
    if len(targets) > 1:
        shown = "; ".join(
            f"{name}, {threads} threads, {on}" for name, threads, on in sorted(targets)
        )
        found.append(f"Latency was measured on different targets and does not compare: {shown}.")
    return found
