"""A planned run: what every step of the job is given."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from onceforall.artifacts import Estimate
from onceforall.data import DataBundle, EvalBatches
from onceforall.encoding import Encoding
from onceforall.errors import Interrupted
from onceforall.files import append_jsonl, write_json
from onceforall.job.clock import Clock
from onceforall.job.config import RunConfig
from onceforall.job.data import DataSession, start_session, training_sample
from onceforall.job.folder import RunFolder
from onceforall.supernets.spec import SupernetSpec
from onceforall.training.ranks import Ranks

Event = dict[str, Any]
Tell = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A planned run.

    Attributes:
        folder: Where it lies.
        config: Its resolved configuration.
        tell: Takes every event: shown, and written to ``events.jsonl`` unless it is progress.
        should_stop: Asked often; True ends the step at the next safe point.
        ranks: This process among all.
        clock: The time that the run may take.
        estimate: What it was expected to take; None where older versions did not say.
    """

    folder: RunFolder
    config: RunConfig
    bundle: DataBundle
    tell: Tell
    should_stop: Callable[[], bool]
    ranks: Ranks
    device: torch.device
    clock: Clock
    estimate: Estimate | None

    @property
    def spec(self) -> SupernetSpec:
        """Return the stage table of the supernet."""
        return self.folder.read_spec(self.config, self.bundle.num_classes)

    @property
    def encoding(self) -> Encoding:
        """Return the encoding of the supernet's space."""
        return Encoding(self.spec.space)

    def left_s(self) -> float:
        """Return the seconds that are left for everything but fine-tuning the winners."""
        return self.clock.left_s() - (0.0 if self.estimate is None else self.estimate.tune_s)

    def session(self) -> DataSession:
        """Return the run's data on its device."""
        return start_session(
            self.config,
            self.bundle,
            device=self.device,
            ranks=self.ranks,
            report=lambda text: self.emit({"event": "warning", "text": text}),
        )

    def training_sample(self, count: int, *, batch_size: int) -> EvalBatches:
        """Return this rank's part of some training images, as they are and in no order."""
        return training_sample(
            self.config,
            self.bundle,
            count,
            batch_size=batch_size,
            device=self.device,
            ranks=self.ranks,
        )

    def emit(self, event: Event) -> None:
        """Show an event, and keep it if it is a fact rather than progress."""
        if not self.ranks.is_main:
            return
        if event["event"] == "step":
            where = {"pid": os.getpid(), "host": platform.node()}
            write_json(self.folder.progress, {**event, **where, **self._now()})
        elif event["event"] != "progress":
            append_jsonl(self.folder.events, {**event, **self._now()})
        self.tell(event)

    def tell_of(self, kind: str, model: str, event: Event) -> None:
        """Show an event of a model's own training; keep it beside those of the supernet's."""
        self.tell(event)
        if event["event"] != "step":
            self.emit({**event, "event": f"{kind}_{event['event']}", "model": model})

    def _now(self) -> Event:
        elapsed_s = round(self.clock.elapsed_s(), 3)
        return {"time": round(time.time(), 3), "elapsed_s": elapsed_s}

    def progress(self, step: str, done: int, total: int) -> None:
        """Show how far a step is, and stop here if a signal asked for it."""
        self.emit({"event": "progress", "what": step, "done": done, "total": total})
        if self.should_stop():
            raise Interrupted(f"stopped during {step}; the same command goes on")
