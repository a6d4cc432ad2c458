"""Keeping a time: how long the phases of a plan last is decided while they run.

Rank 0 measures, and every now and then gives the phases that are left new lengths so that they end
in time. A decision is written down before it counts, and a restart takes it again at the same step
instead of deciding anew, so that interrupted training ends with the same bits.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onceforall.files import Json, append_jsonl, damaged, read_jsonl
from onceforall.reading import is_number

# First steps of a phase that say nothing about the later ones: kernels are prepared in them.
_WARMUP_STEPS = 4
# Relative changes below this are not worth a decision.
_TOLERANCE = 0.01
_MOST_EPOCHS = 1e9
# A look at the clock may fall on a bad moment: the middle one of so many counts.
_LOOKS = 3
# Steps that take this much longer than at their fastest say nothing of who else uses the machine.
_UNSTEADY = 1.25
# What training does between steps (probes, checkpoints) is at most this share of their time.
_MOST_ASIDE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A time to keep.

    Attributes:
        seconds_left: Gives the seconds until training must have ended; asked on rank 0. It is
            told how much longer steps take now than when this machine was least busy, at least 1:
            what comes after training will take longer too.
        step_seconds: Expected seconds of a step of each phase, before any was measured.
        every_s: Seconds between two looks at the clock.
        may_grow: Whether training may become longer than planned, if there is time.
    """

    seconds_left: Callable[[float], float]
    step_seconds: tuple[float, ...]
    every_s: float
    may_grow: bool = True


def _decision(journal: Path, line: Json) -> tuple[int, list[float]]:
    """Return the step and the lengths that a line of a journal says."""
    step, epochs = line.get("step"), line.get("epochs")
    if not isinstance(step, int) or not isinstance(epochs, list) or not epochs:
        raise damaged(journal, f"{line} is no decision")
    if not all(is_number(each, 0, _MOST_EPOCHS) for each in epochs):
        raise damaged(journal, f"epochs {epochs} are no lengths")
    return step, epochs


def fit_steps(
    steps_left: Sequence[int], step_seconds: Sequence[float], seconds_left: float
) -> list[int]:
    """Return the steps of each phase that fit the time, all changed by the same factor.

    Args:
        steps_left: Steps that each phase still has, the current one first.
        step_seconds: Seconds of a step of each.
        seconds_left: Time for all of them.

    Returns:
        At least one step of each phase, whatever the time.
    """
    expected = sum(n * s for n, s in zip(steps_left, step_seconds, strict=True))
    factor = max(0.0, seconds_left) / max(expected, 1e-9)
    return [max(1, round(n * factor)) for n in steps_left]


@dataclass(slots=True, kw_only=True)
class Pacer:
    """Looks at the clock on rank 0 and remembers what was decided.

    Attributes:
        pace: The time to keep.
        journal: File of decisions, one JSON object a line.
        decided: Lengths in epochs that hold after a global step.
    """

    pace: Pace
    journal: Path
    decided: dict[int, list[float]] = field(default_factory=dict)
    _looked: float = field(default_factory=time.monotonic)
    _phase: int = -1
    _steps: int = 0
    _warmup: int = 0
    _slowdowns: deque[float] = field(default_factory=lambda: deque(maxlen=_LOOKS))
    _least_slowdown: float = math.inf
    _crowding: float = 1.0
    _steps_s: float = 0.0
    _aside_s: float = 0.0

    def __post_init__(self) -> None:
        self.decided = dict(_decision(self.journal, line) for line in read_jsonl(self.journal))

    def is_due(self, step: int, phase: int) -> bool:
        """Say whether something is decided after ``step``, which is about to run."""
        if self.decided and step <= max(self.decided):
            self._phase = -1  # what was measured so far is of another stretch
            return step in self.decided
        if phase != self._phase:
            self._warmup = _WARMUP_STEPS
        if self._warmup > 0:
            self._warmup -= 1
            self._start_window(phase)
            self._steps = 1  # the one that is about to run
            return False
        self._steps += 1
        return time.monotonic() - self._looked >= self.pace.every_s

    def decide(
        self,
        step: int,
        phase: int,
        steps_left: Sequence[int],
        to_epochs: Callable[[int, int], float],
    ) -> list[float] | None:
        """Return new lengths in epochs from the current phase on, or None to leave them.

        Args:
            step: Global step that was just done.
            phase: Index of the current phase.
            steps_left: Steps left of it and of each later phase.
            to_epochs: Gives the length in epochs of a phase with so many steps left.
        """
        if step in self.decided:
            if len(self.decided[step]) != len(steps_left):
                raise damaged(self.journal, f"step {step} decides of another number of phases")
            return self.decided[step]
        slowdown = self._look(phase)
        aside = min(_MOST_ASIDE, self._aside_s / max(1e-9, self._steps_s))
        seconds = [(1 + aside) * slowdown * s for s in self.pace.step_seconds[phase:]]
        fitted = fit_steps(steps_left, seconds, self.pace.seconds_left(self._crowding))
        if not self.pace.may_grow and sum(fitted) > sum(steps_left):
            return None
        if abs(sum(fitted) / sum(steps_left) - 1) < _TOLERANCE:
            return None
        epochs = [to_epochs(phase + i, n) for i, n in enumerate(fitted)]
        append_jsonl(self.journal, {"step": step, "epochs": epochs})
        self.decided[step] = epochs
        return epochs

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Keep the time of what is no step out of what steps take."""
        began = time.monotonic()
        try:
            yield
        finally:
            spent_s = time.monotonic() - began
            self._looked += spent_s
            self._aside_s += spent_s

    def _look(self, phase: int) -> float:
        """Return how much longer steps take than expected, and start to measure anew."""
        spent_s = time.monotonic() - self._looked
        self._steps_s += spent_s
        self._slowdowns.append(spent_s / max(1, self._steps) / self.pace.step_seconds[phase])
        slowdown = statistics.median_low(self._slowdowns)
        if math.isinf(self._least_slowdown):  # a new phase, on a machine as busy as it was
            self._least_slowdown = slowdown / self._crowding
        self._least_slowdown = min(self._least_slowdown, slowdown)
        crowding = slowdown / self._least_slowdown
        self._crowding = crowding if crowding > _UNSTEADY else 1.0
        self._start_window(phase)
        return slowdown

    def _start_window(self, phase: int) -> None:
        if phase != self._phase:
            # Another phase may have been expected to be faster or slower than it is, which says
            # nothing about how busy the machine is.
            self._slowdowns.clear()
            self._least_slowdown = math.inf
        self._looked, self._steps, self._phase = time.monotonic(), 0, phase
