"""How a plan is run, and whom the engine talks to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from onceforall.training.budget import Pace
from onceforall.training.plan import Phase
from onceforall.training.step import Trainable

Event = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEnd:
    """Where training is after an epoch.

    Attributes:
        net: The network in its current state, in which it has to be left.
        phase: The phase that the epoch was of.
        epochs_done: Epochs begun over all phases.
        epochs: Length of all phases together, as the time allows it by now.
        ends_phase: Whether it was the phase's last; channels are not yet sorted for the next.
        is_last: Whether it was the last of all.
        average: Averaged weights by name; empty where the plan averages none.
    """

    net: Trainable
    phase: Phase
    epochs_done: int
    epochs: float
    ends_phase: bool
    is_last: bool
    average: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How a plan is run; ``micro_batches``, ``autocast`` and ``pace`` change what is computed.

    Attributes:
        seed: Seed of subnets, resolutions and dropout.
        checkpoint_every_s: Seconds between checkpoints.
        checkpoint_every_steps: Steps between checkpoints, instead of seconds; 0 for seconds.
        log_every_s: Seconds between progress events.
        autocast: Forward passes in bfloat16.
        micro_batches: Each batch is split into this many parts whose gradients are averaged.
        max_rollbacks: Divergences that are answered by a lower learning rate.
        pace: A time to keep, by changing the lengths of the plan's phases; None keeps them.
    """

    seed: int
    checkpoint_every_s: float = 60.0
    checkpoint_every_steps: int = 0
    log_every_s: float = 1.0
    autocast: bool = False
    micro_batches: int = 1
    max_rollbacks: int = 3
    pace: Pace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """What the engine tells and asks its caller.

    Attributes:
        on_event: Takes every event, on rank 0 only; the caller writes and shows them.
        should_stop: Asked every step; True ends training with a checkpoint.
        after_epoch: Called after every epoch; returns facts for its event, e.g. probed accuracies.
        change_batch: Turns images and labels into what is trained on (mixup and the like); takes
            the global step.
    """

    on_event: Callable[[Event], None] = lambda event: None
    should_stop: Callable[[], bool] = lambda: False
    after_epoch: Callable[[EpochEnd], Event] = lambda end: {}
    change_batch: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] = (
        lambda images, labels, step: (images, labels)
    )
