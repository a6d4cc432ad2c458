"""An epoch of training, as ``events.jsonl`` tells it."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveFloat

from onceforall.artifacts.record import Fraction, Record


class Epoch(Record):
    """The event of an epoch that ended.

    Attributes:
        epochs_done: Epochs done, this one among them.
        epochs: Epochs in all, as far as was known then.
        phase: Phase of the plan.
        loss: Mean loss of its steps.
        top1: Training top-1 of the leading subnet of each step.
        probes: Validation top-1 of the watched subnets, if they were watched then.
        grid_mean: Mean validation top-1 of the grid as far as it was open, if it was measured.
    """

    epochs_done: PositiveFloat
    epochs: NonNegativeFloat = 0.0
    phase: str = ""
    loss: float | None = None
    top1: Fraction | None = None
    probes: dict[str, Fraction] = Field(default_factory=dict)
    grid_mean: Fraction | None = None
