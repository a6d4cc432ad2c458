"""Plans: what is trained, in which order, as data.

A plan is a tuple of phases; a phase says which part of the search space is open, how the subnets
of a step are drawn and who teaches them. Progressive shrinking and the one-stage sandwich rule
are two plans of the same engine. A new one is a function here, its name in `job/sections.py`, and a
case in `job/config.py`; one of your own needs no code: ``train.phases``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from onceforall.errors import ConfigError
from onceforall.space import SearchSpace
from onceforall.training.freezing import Part

Draw = Literal["largest", "random", "sandwich"]
Teacher = Literal["none", "in_place", "frozen"]
Distillation = Literal["soft_targets", "alpha"]
Attentive = Literal["none", "best", "worst"]


def check_one_of(name: str, value: object, kind: Any) -> None:
    """Raise ConfigError unless a value is one of those that a Literal lists."""
    if value not in get_args(kind):
        raise ConfigError(f"{name} {value!r} is not one of {', '.join(get_args(kind))}")


def _options(name: str, value: object) -> int | tuple[Any, ...]:
    """Return what an axis opens as a number or a tuple."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return tuple(value)
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(f"opened {name} {value!r} is neither a number nor options") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """How much of each elastic axis is open.

    A number ``n`` is the ``n`` largest options, a tuple the very options; None is all of them.
    """

    kernel_size: int | tuple[int, ...] | None = None
    depth: int | tuple[int, ...] | None = None
    expand_ratio: int | tuple[float, ...] | None = None
    width_mult: int | tuple[float, ...] | None = None
    stem_depth: int | tuple[int, ...] | None = None
    resolution: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if (value := getattr(self, field.name)) is not None:
                object.__setattr__(self, field.name, _options(field.name, value))

    def restrict(self, space: SearchSpace) -> SearchSpace:
        """Return the open part of ``space``.

        Raises:
            ArchError: If an option is not one of the space.
        """
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        counts = {axis: value for axis, value in said.items() if isinstance(value, int)}
        options = {axis: value for axis, value in said.items() if isinstance(value, tuple)}
        return space.restrict(**options).keep_largest(**counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stretch of training with its own learning-rate schedule and fresh optimizer.

    Attributes:
        name: Shown while it runs and written to events.
        epochs: Passes over the training images, above 0; the last one may be a part of one.
        opened: The part of the space that subnets are drawn from.
        draw: ``largest`` only, ``random`` subnets, or the ``sandwich``: largest, smallest and
            random ones.
        subnets_per_step: Subnets whose gradients make one step. A sandwich of one takes turns:
            the largest, a random one, the smallest, another random one.
        teacher: Who gives soft targets: nobody, the largest subnet of the same step
            (``in_place``), or the network as it was after the plan's first phase (``frozen``).
        trainable: What learns: ``all``, the kernel ``transforms`` only, or the ``classifier`` only.
            Everything else stays as it is to the bit, with transforms batch-norm statistics too;
            with the classifier they follow the images.
        learning_rate: Peak, for a global batch of ``Plan.reference_batch`` images.
        warmup_epochs: Epochs of linear warm-up, part of ``epochs``.
        warmup_start: Learning rate that the warm-up starts from, whatever the batch.
        cosine_part: Where on the half cosine the phase begins and ends, 0 to 1.
        sort_channels: Number of smaller widths already trained when channels are sorted by
            importance before the phase; None for no sorting.
        ramp: Share of the phase over which smaller subnets come in: at progress 0 a random
            subnet is the largest, at ``ramp`` it is drawn from all of the open space; 0 is at
            once.
        attentive: Which of several random subnets of like MACs a step trains: the first one
            (``none``), or the one with the smallest (``best``) or largest (``worst``) loss on
            the step's batch. Source: Wang et al., *AttentiveNAS*, CVPR 2021.
        attentive_candidates: Subnets to choose from, at least 2.
    """

    name: str
    epochs: float
    opened: Opened = Opened()
    draw: Draw = "random"
    subnets_per_step: int = 1
    teacher: Teacher = "none"
    trainable: Part = "all"
    learning_rate: float
    warmup_epochs: float = 0.0
    warmup_start: float = 0.0
    cosine_part: tuple[float, float] = (0.0, 1.0)
    sort_channels: int | None = None
    ramp: float = 0.0
    attentive: Attentive = "none"
    attentive_candidates: int = 3

    def __post_init__(self) -> None:
        for name, kind in (
            ("draw", Draw), ("teacher", Teacher), ("trainable", Part), ("attentive", Attentive)
        ):  # fmt: skip
            check_one_of(f"phase {self.name}: {name}", getattr(self, name), kind)
        start, end = self.cosine_part
        if not (0 <= self.ramp <= 1 and 0 <= start <= end <= 1):
            raise ConfigError(
                f"phase {self.name}: ramp {self.ramp} and cosine_part {self.cosine_part} are "
                "shares, 0 to 1"
            )
        if not self.epochs > 0:
            raise ConfigError(f"phase {self.name}: epochs {self.epochs} is not above 0")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ConfigError(
                f"phase {self.name}: warmup_epochs {self.warmup_epochs} is not in "
                f"[0, {self.epochs})"
            )
        is_taught_within = self.teacher == "in_place"
        least = 2 if is_taught_within else 1
        if self.subnets_per_step < least:
            why = ", the teacher and one that it teaches" if is_taught_within else ""
            raise ConfigError(
                f"phase {self.name}: subnets_per_step {self.subnets_per_step} is below {least}{why}"
            )
        if is_taught_within and self.draw != "sandwich":
            raise ConfigError(f"phase {self.name}: in_place distillation needs a sandwich")
        if self.attentive_candidates < 2:
            raise ConfigError(
                f"phase {self.name}: attentive_candidates {self.attentive_candidates} is below 2"
            )

    @property
    def num_epochs(self) -> int:
        """Return the epochs that are begun: whole ones, and the part of one at the end."""
        return math.ceil(self.epochs)

    def num_steps(self, steps_per_epoch: int) -> int:
        """Return the steps of the phase; at least 1."""
        return max(1, round(self.epochs * steps_per_epoch))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole training.

    Attributes:
        name: Name of the plan.
        phases: Run in order; each starts from where the last one ended.
        reference_batch: Global batch the learning rates are meant for; they scale linearly, Muon's
            with the square root.
        momentum: Nesterov momentum.
        muon_factor: Learning rate of :class:`~onceforall.training.muon.Muon` for the weights of
            inner convolutions over that of all else; 0 for gradient descent everywhere.
        weight_decay: On convolution and linear weights; norms and biases are not decayed.
        decay_transforms: Decay kernel transforms too, as published: towards zero, not identity.
        label_smoothing: In [0, 1).
        distillation: Loss towards a teacher.
        distillation_weight: Factor of the soft-target loss where it is added to the label loss
            (frozen teacher).
        mean_over_subnets: Average the subnets' gradients instead of summing them (published).
        max_grad_norm: Global norm that gradients are clipped to; 0 for no clipping.
        ema_decay: Decay per step of an exponential moving average of the weights that the
            finished supernet takes, after a warm-up; 0 for none.
        head_factor: Learning rate of the classifier over that of the rest.
        train_side: Side of training images over the resolution of the subnets that they train, in
            (0, 1]. Random crops show objects larger than evaluation does; smaller images make up
            for that, and train faster. Source: Touvron et al., *Fixing the train-test resolution
            discrepancy*, NeurIPS 2019.
        published_draws: Draw resolutions and subnets with the published seeds, which depend on
            epoch and batch of the phase alone, instead of the run's seed.
    """

    name: str
    phases: tuple[Phase, ...]
    reference_batch: int
    momentum: float = 0.9
    muon_factor: float = 0.0
    weight_decay: float = 3e-5
    decay_transforms: bool = False
    label_smoothing: float = 0.1
    distillation: Distillation = "soft_targets"
    distillation_weight: float = 1.0
    mean_over_subnets: bool = False
    max_grad_norm: float = 0.0
    ema_decay: float = 0.0
    head_factor: float = 1.0
    train_side: float = 1.0
    published_draws: bool = False

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError(f"plan {self.name} has no phase")
        check_one_of(f"plan {self.name}: distillation", self.distillation, Distillation)
        if self.reference_batch < 1:
            raise ConfigError(
                f"plan {self.name}: reference_batch {self.reference_batch} is below 1"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"plan {self.name}: label_smoothing {self.label_smoothing} is not in [0, 1)"
            )
        if not 0 < self.train_side <= 1:
            raise ConfigError(f"plan {self.name}: train_side {self.train_side} is not in (0, 1]")
        names = [phase.name for phase in self.phases]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"plan {self.name} has two phases called {twice[0]!r}")

    @property
    def epochs(self) -> int:
        """Return the epochs that all phases together begin."""
        return sum(phase.num_epochs for phase in self.phases)

    def with_epochs(self, epochs: Sequence[float]) -> Plan:
        """Return the plan with other lengths of its phases."""
        pairs = zip(self.phases, epochs, strict=True)
        phases = tuple(
            replace(phase, epochs=e, warmup_epochs=phase.warmup_epochs * e / phase.epochs)
            for phase, e in pairs
        )
        return replace(self, phases=phases)

    def index(self, name: str) -> int:
        """Return the place of a phase; of no name, that of the first one.

        Raises:
            ConfigError: If there is no such phase.
        """
        names = [phase.name for phase in self.phases]
        if name and name not in names:
            raise ConfigError(f"phase {name!r} is not one of {', '.join(names)}")
        return names.index(name) if name else 0


def sandwich_plan(
    *,
    epochs: float,
    learning_rate: float,
    reference_batch: int,
    subnets_per_step: int = 4,
    warmup_epochs: float = 1.0,
    weight_decay: float = 1e-4,
    label_smoothing: float = 0.1,
    ema_decay: float = 0.0,
    distillation: Distillation = "soft_targets",
    attentive: Attentive = "none",
) -> Plan:
    """Return the one-stage plan: sandwich rule with in-place distillation.

    Source: Yu and Huang, *Universally Slimmable Networks*, ICCV 2019; Yu et al., *BigNAS*,
    ECCV 2020.
    """
    phase = Phase(
        name="sandwich",
        epochs=epochs,
        draw="sandwich",
        subnets_per_step=subnets_per_step,
        teacher="in_place",
        learning_rate=learning_rate,
        warmup_epochs=min(warmup_epochs, epochs / 2),
        attentive=attentive,
    )
    return Plan(
        name="sandwich",
        phases=(phase,),
        reference_batch=reference_batch,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        distillation=distillation,
        mean_over_subnets=True,
        max_grad_norm=1.0,
        ema_decay=ema_decay,
    )


def alone_plan(plan: Plan, *, epochs: float, warmup_epochs: float, trainable: Part = "all") -> Plan:
    """Return the plan of one network alone: the settings of ``plan``, one phase, no teacher."""
    phase = Phase(
        name="alone",
        epochs=epochs,
        draw="largest",
        learning_rate=plan.phases[0].learning_rate,
        warmup_epochs=warmup_epochs,
        trainable=trainable,
    )
    return replace(plan, name="alone", phases=(phase,))


def delayed_plan(
    *,
    epochs: float,
    learning_rate: float,
    reference_batch: int,
    full_share: float = 0.5,
    ramp: float = 0.3,
    subnets_per_step: int = 2,
    warmup_epochs: float = 1.0,
    weight_decay: float = 1e-4,
    label_smoothing: float = 0.1,
) -> Plan:
    """Return delayed, ramped shrinking: half of training on the largest subnet, then a ramp.

    One cosine spans both phases: the learning rate does not start again when subnets come in.

    Source: the abstract of *DepS: Delayed epsilon-shrinking*, ECCV 2024 (shrinking starts when
    the full model is about half trained, and smaller subnets come in gradually).
    """
    full = epochs * full_share
    phases = (
        Phase(
            name="full",
            epochs=full,
            opened=Opened(kernel_size=1, depth=1, expand_ratio=1, width_mult=1, stem_depth=1),
            draw="largest",
            learning_rate=learning_rate,
            warmup_epochs=min(warmup_epochs, full / 2),
            cosine_part=(0.0, full_share),
        ),
        Phase(
            name="shrink",
            epochs=epochs - full,
            draw="sandwich",
            subnets_per_step=subnets_per_step,
            teacher="in_place",
            learning_rate=learning_rate,
            cosine_part=(full_share, 1.0),
            sort_channels=0,
            ramp=ramp,
        ),
    )
    return Plan(
        name="delayed",
        phases=phases,
        reference_batch=reference_batch,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        mean_over_subnets=True,
        max_grad_norm=5.0,
    )


def original_plan(
    *,
    epochs: float,
    learning_rate: float,
    reference_batch: int,
    ramp: float = 0.0,
    subnets_per_step: int = 1,
    warmup_epochs: float = 0.5,
    weight_decay: float = 1e-4,
    label_smoothing: float = 0.1,
) -> Plan:
    """Return the plan of a network that is trained already: a sandwich that learns from it.

    Channels are ordered by importance first; the network as it was teaches every subnet, besides
    the labels. It knows enough to be trained in one step of four only, which makes more steps.
    """
    phase = Phase(
        name="original",
        epochs=epochs,
        draw="sandwich",
        subnets_per_step=subnets_per_step,
        teacher="frozen",
        learning_rate=learning_rate,
        warmup_epochs=min(warmup_epochs, epochs / 10),
        sort_channels=0,
        ramp=ramp,
    )
    return Plan(
        name="original",
        phases=(phase,),
        reference_batch=reference_batch,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        mean_over_subnets=True,
        max_grad_norm=5.0,
    )
