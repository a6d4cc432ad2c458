"""What a run tells while it works: lines of ``events.jsonl``, and ``progress.json``."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from onceforall.artifacts.record import Count, Epochs, Fraction, Record, Seconds

# What readers ask of an event, by its kind.
_Number = Annotated[int | float, Field(ge=0, le=1e15)]
_NEEDED = {"evaluated": "archs", "checkpoint": "step"}


class Told(Record):
    """A line of ``events.jsonl``: the keys that somebody reads again.

    Attributes:
        event: Kind of the event; those of a network trained beside the supernet start with
            ``baseline_`` or ``finetune_``.
        time: Moment in seconds since 1970.
        elapsed_s: Seconds that the run had taken.
        seconds: Seconds that something took.
        step: Training steps done, or the name of a step of the job.
        archs: Subnets evaluated.
        epochs_done: Epochs done.
        model: Name of the model that it is about.
        probes: Validation top-1 of the watched subnets.
        grid: Validation top-1 of the grid's subnets, by name.
    """

    event: str
    time: Seconds | None = None
    elapsed_s: Seconds | None = None
    seconds: Seconds | None = None
    step: Count | str | None = None
    archs: Count | None = None
    epochs_done: Epochs | None = None
    model: str | None = None
    probes: dict[str, Fraction] | None = None
    grid: dict[str, Fraction] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = "model" if self.event.startswith("baseline_") else _NEEDED.get(self.event)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"{self.event} without {needed}")
        if self.event == "checkpoint" and isinstance(self.step, str):
            raise ValueError("checkpoint with a step that is no number")
        return self


class Progress(Record):
    """Contents of ``progress.json``: the latest training step shown.

    Losses and accuracies are shown as they are; those of a step that diverged are no numbers.

    Attributes:
        time: Moment in seconds since 1970.
        elapsed_s: Seconds that the run had taken.
        pid: Process that trains.
        host: Machine that it runs on.
        phase: Phase of the plan.
        epoch: Epoch it is in, from 1.
        epochs: Epochs in all.
        step: Steps done.
        steps: Steps in all.
        images_per_s: Training images a second, over all ranks.
        seconds_left: Estimate of the seconds that training still takes.
        subnet_losses: Loss of each subnet of the step.
        subnet_top1: Training top-1 of each.
    """

    model_config = ConfigDict(allow_inf_nan=True)

    time: Seconds
    elapsed_s: Seconds = 0.0
    pid: Count
    host: str
    phase: str
    epoch: _Number
    epochs: _Number
    step: Count
    steps: _Number
    images_per_s: Seconds
    seconds_left: float
    subnet_losses: tuple[float, ...] = ()
    subnet_top1: tuple[float, ...] = ()
