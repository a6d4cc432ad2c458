"""The pace of training: when to write, and what an epoch has shown so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from onceforall.training.step import StepResult


@dataclass(slots=True, kw_only=True)
class Timer:
    """When to log and when to write a checkpoint.

    Attributes:
        log_every_s: Seconds between progress events.
        checkpoint_every_s: Seconds between checkpoints.
        checkpoint_every_steps: Steps between checkpoints, instead of seconds; 0 for seconds.
    """

    log_every_s: float
    checkpoint_every_s: float
    checkpoint_every_steps: int
    _lap: float = field(default_factory=time.monotonic)
    _log: float = field(default_factory=time.monotonic)
    _checkpoint: float = field(default_factory=time.monotonic)

    def start_epoch(self) -> None:
        """Leave out what came between two epochs; progress is told across them."""
        self._lap = self._checkpoint = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last call."""
        now = time.monotonic()
        seconds, self._lap = now - self._lap, now
        return seconds

    def is_log_time(self) -> bool:
        """Return True once per logging interval."""
        now = time.monotonic()
        if now - self._log < self.log_every_s:
            return False
        self._log = now
        return True

    def is_checkpoint_time(self, step: int) -> bool:
        """Return whether a checkpoint is due."""
        if self.checkpoint_every_steps:
            return step % self.checkpoint_every_steps == 0
        now = time.monotonic()
        if now - self._checkpoint < self.checkpoint_every_s:
            return False
        self._checkpoint = now
        return True


@dataclass(slots=True)
class EpochSums:
    """Sums over the steps of an epoch that this process has run."""

    steps: int = 0
    images: int = 0
    loss: float = 0.0
    top1: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Return the seconds since the first step began."""
        return max(time.monotonic() - self.started, 1e-9)

    def add(self, result: StepResult, images: int) -> None:
        """Take one step."""
        self.steps += 1
        self.images += images
        self.loss += sum(result.losses) / len(result.losses)
        self.top1 += result.top1[0]

    def means(self) -> dict[str, Any]:
        """Return the mean loss over subnets, the leading subnet's top-1 and the speed."""
        if self.steps == 0:
            return {}
        return {
            "loss": round(self.loss / self.steps, 5),
            "top1": round(self.top1 / self.steps, 5),
            "images_per_s": round(self.images / self.seconds, 1),
        }
