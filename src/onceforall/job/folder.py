"""The folder of a run: what lies where, and what the steps read of one another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceforall.artifacts import Card, Evaluation, FrontFile, Progress, RunSettings, Told
from onceforall.errors import CheckpointError, ConfigError
from onceforall.files import iterate_jsonl
from onceforall.job.config import RunConfig, validated
from onceforall.supernets.families import PUBLISHED_SUPERNETS
from onceforall.supernets.spec import SupernetSpec
from onceforall.supernets.weights import saved_spec


class _Place:
    """A file or folder of a run, by its path in there."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __get__(self, folder: RunFolder, kind: object) -> Path:
        return folder.path / self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Where everything of a run lies."""

    path: Path

    settings = _Place("run.yaml")  # resolved configuration, versions, hardware
    events = _Place("events.jsonl")  # one line per event
    progress = _Place("progress.json")  # the latest step shown, for who looks on
    checkpoints = _Place("checkpoints")  # training state
    network = _Place("network.safetensors")  # the traced one that the run began with
    supernet = _Place("checkpoints/supernet.safetensors")  # the trained supernet
    phases = _Place("checkpoints/phases")  # the supernet as each phase of training left it
    # The supernet as it was when its grid had the best validation top-1, of one phase.
    best = _Place("checkpoints/best.safetensors")
    evaluations = _Place("evaluations.jsonl")  # measured accuracies of sampled subnets
    predictor = _Place("predictor.safetensors")  # accuracy predictor
    search = _Place("search")  # search journal and front
    models = _Place("models")  # shipped models
    front = _Place("search/front.json")  # the predicted front
    confirmed = _Place("search/confirmed.json")  # candidates of the front, measured
    failed = _Place("search/failed.json")  # models that could not be proven
    # Candidates that broke a limit when they were measured as they ship.
    rejected = _Place("search/rejected.json")
    tuned = _Place("finetuned.csv")  # shipped models before and after fine-tuning

    def has_network(self) -> bool:
        """Say whether the traced network that the run began with is there, and whole."""
        return self.network.is_file() and self.network.with_suffix(".json").is_file()

    def winner(self, key: str) -> Path:
        """Return the folder of a winner that is trained on before it ships."""
        return self.checkpoints / "winners" / key

    def latency(self, config: RunConfig) -> Path:
        """Return the latency model of the configured device."""
        device = f"{config.latency.target}-{config.latency.threads}t"
        return self.path / "latency" / f"{device}.json"

    def card(self, name: str) -> Path:
        """Return the card of a shipped model."""
        return self.models / name / "card.json"

    def baseline(self, name: str) -> Path:
        """Return what the architecture of a model came to when it was trained alone."""
        return self.path / "baselines" / f"{name}.json"

    def read_settings(self) -> RunSettings:
        """Return what ``run.yaml`` holds.

        Raises:
            ConfigError: If the folder is no run.
            CheckpointError: If the file is damaged.
        """
        if not self.settings.is_file():
            line = f"{self.path} is not the folder of a run: there is no run.yaml"
            if (name := str(self.path)) in PUBLISHED_SUPERNETS:
                made = f"ofa run DATA --net {name} --weights official --epochs 0 --out RUN"
                line += f"; a run of this network is made by  {made}"
            raise ConfigError(line)
        return RunSettings.read(self.settings)

    def read_config(self, settings: RunSettings) -> RunConfig:
        """Return the configuration in ``run.yaml``.

        Raises:
            CheckpointError: If it is damaged.
        """
        try:
            return validated(settings.config)
        except ConfigError as error:
            raise RunSettings.damaged(str(self.settings), f"config.{error}") from error

    def read_spec(self, config: RunConfig, num_classes: int) -> SupernetSpec:
        """Return the stage table of the supernet, or the traced network that the run started from.

        Raises:
            CheckpointError: If the traced network is damaged.
            ConfigError: If the configuration names none that can be.
        """
        if config.supernet.family == "graph" and self.has_network():
            return saved_spec(self.network.with_suffix(".json"))
        return config.spec(num_classes)

    def read_front(self) -> FrontFile:
        """Return the front that the search found.

        Raises:
            CheckpointError: If there was no search yet.
        """
        if not self.front.is_file():
            raise CheckpointError(f"{self.path} has no front yet: run  ofa search")
        return FrontFile.read(self.front)

    def read_evaluations(self) -> list[Evaluation]:
        """Return the measurements of all ranks, each arch once, in an order of their own."""
        paths = sorted(self.path.glob("evaluations*.jsonl"))
        lines = [line for path in paths for line in Evaluation.read_lines(path)]
        by_arch = {json.dumps(line.arch.to_json()): line for line in lines}
        return [by_arch[key] for key in sorted(by_arch)]

    def read_cards(self) -> list[Card]:
        """Return the cards of all finished models, smallest first."""
        paths = sorted(self.models.glob("*/card.json")) if self.models.is_dir() else []
        return sorted(map(Card.read, paths), key=lambda card: card.macs)

    def read_events(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the events of some kinds, or all; none if there are none yet.

        Raises:
            CheckpointError: If a line is damaged.
        """
        events = []
        for number, line in enumerate(iterate_jsonl(self.events), 1):
            told = Told.from_json(line, where=f"{self.events} line {number}")
            if not kinds or told.event in kinds:
                events.append(line)
        return events

    def read_progress(self) -> Progress | None:
        """Return the latest training step shown, or None if there is none yet.

        Raises:
            CheckpointError: If the file is damaged.
        """
        return Progress.read(self.progress) if self.progress.is_file() else None
