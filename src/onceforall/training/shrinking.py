"""Progressive shrinking: full network, then kernel, depth and width open step by step.

Source: Cai et al., *Once-for-All*, ICLR 2020, section 3.3 and appendix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from onceforall.space import SearchSpace
from onceforall.training.plan import Opened, Phase, Plan

# Peak rate of the full network for 64 images.
PUBLISHED_RATE = 2.6 * 64 / 2048
# Published lengths and warm-ups in epochs, and learning rates for 64 images. The paper
# gives the full network's 2.6 for 2048 images and no warm-up: that one is our choice.
_FULL_LENGTH, _FULL_RATE = (180, 5), PUBLISHED_RATE
_KERNEL_LENGTH, _KERNEL_RATE = (120, 5), 3e-2
_FIRST_LENGTH, _FIRST_RATE = (25, 0), 2.5e-3
_LAST_LENGTH, _LAST_RATE = (120, 5), 7.5e-3


def progressive_plan(
    space: SearchSpace,
    *,
    epochs: float,
    learning_rate: float,
    reference_batch: int,
    weight_decay: float = 3e-5,
    label_smoothing: float = 0.1,
    full_share: float = 0.4,
) -> Plan:
    """Return progressive shrinking: full network, then kernel, depth, width open step by step.

    Every step of an axis is a phase; a rigid axis has none. All phases after the first distil
    from the network as it was after the first. Epochs are shared out: ``full_share`` for the full
    network, the rest in proportion to the published lengths (25 epochs for the first step of an
    axis, 120 for the last).

    Source: Cai et al., *Once-for-All*, ICLR 2020, section 3.3 and appendix; figures of the
    released training script.
    """
    steps = _shrinking_steps(space)
    weights = [120 if step.is_last else 25 for step in steps]
    left = max(len(steps), round(epochs * (1 - full_share))) if steps else 0
    full = max(1.0, epochs - left)
    lengths = [max(1, round(left * weight / sum(weights))) for weight in weights]
    phases = [
        _full_phase(epochs=full, learning_rate=learning_rate, warmup_epochs=min(1.0, full / 2))
    ]
    phases += [
        _shrinking_phase(step, epochs=length, learning_rate=learning_rate * share)
        for step, length in zip(steps, lengths, strict=True)
        for share in (0.3 if step.is_last else 0.1,)
    ]
    return Plan(
        name="progressive",
        phases=tuple(phases),
        reference_batch=reference_batch,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        max_grad_norm=1.0,
    )


def published_plan(
    space: SearchSpace,
    *,
    epochs: float | None = None,
    learning_rate: float = PUBLISHED_RATE,
    reference_batch: int = 64,
    weight_decay: float = 3e-5,
    label_smoothing: float = 0.1,
) -> Plan:
    """Return progressive shrinking with the published hyper-parameters, from the full network on.

    A stage of the published scripts is a phase here, chained from the phase before; the teacher
    is the plan's own full network. Spaces whose script was never released (ProxylessNAS,
    ResNet50D with its width multipliers) follow the same rule: 25 epochs for the first step of an
    axis, 120 and 5 of warm-up for the last, gradients of 2 subnets for depth and 4 for widths.

    Args:
        space: Space to open step by step.
        epochs: Length in all, to which every phase is scaled; None for the published length.
        learning_rate: Peak of the full network, for ``reference_batch`` images; the other phases
            keep their published share of it.
        reference_batch: Global batch that ``learning_rate`` is meant for.
        weight_decay: As of `Plan`.
        label_smoothing: As of `Plan`.

    Source: Cai et al., *Once-for-All*, ICLR 2020; figures of the released training script. The
    gradients of a step's subnets are summed, nothing is clipped, kernel transforms decay.
    """
    steps = _shrinking_steps(space)
    chosen = [(_FULL_LENGTH, _FULL_RATE)]
    for step in steps:
        if step.axis == "kernel_size":
            chosen.append((_KERNEL_LENGTH, _KERNEL_RATE))
        elif step.is_last:
            chosen.append((_LAST_LENGTH, _LAST_RATE))
        else:
            chosen.append((_FIRST_LENGTH, _FIRST_RATE))
    factor = learning_rate / _FULL_RATE
    published = sum(sum(length) for length, _ in chosen)
    scale = 1.0 if epochs is None else epochs / published
    lengths = [max(1, round(sum(length) * scale)) for length, _ in chosen]
    warmups = [
        length * warmup / (cosine + warmup)
        for length, ((cosine, warmup), _) in zip(lengths, chosen, strict=True)
    ]
    phases = [
        _full_phase(epochs=lengths[0], learning_rate=learning_rate, warmup_epochs=warmups[0]),
        *(
            # The published warm-up starts from the rate that one device of 64 images would have.
            _shrinking_phase(
                step,
                epochs=length,
                learning_rate=rate * factor,
                warmup_epochs=warmup,
                warmup_start=rate * factor,
            )
            for step, length, warmup, (_, rate) in zip(
                steps, lengths[1:], warmups[1:], chosen[1:], strict=True
            )
        ),
    ]
    return Plan(
        name="published",
        phases=tuple(phases),
        reference_batch=reference_batch,
        weight_decay=weight_decay,
        decay_transforms=True,
        label_smoothing=label_smoothing,
        published_draws=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shrink:
    """A step of progressive shrinking.

    Attributes:
        axis: The axis that opens further.
        opened: What is open from now on.
        num_trained: Smaller options of the axis trained before.
        is_last: Whether all of the axis is open now.
    """

    axis: str
    opened: Opened
    num_trained: int
    is_last: bool


_ALL_CLOSED = Opened(kernel_size=1, depth=1, expand_ratio=1, width_mult=1, stem_depth=1)


def _full_phase(*, epochs: float, learning_rate: float, warmup_epochs: float) -> Phase:
    return Phase(
        name="full",
        epochs=epochs,
        opened=_ALL_CLOSED,
        draw="largest",
        learning_rate=learning_rate,
        warmup_epochs=warmup_epochs,
    )


def _shrinking_phase(
    step: _Shrink,
    *,
    epochs: float,
    learning_rate: float,
    warmup_epochs: float = 0.0,
    warmup_start: float = 0.0,
) -> Phase:
    return Phase(
        name=f"{step.axis} {getattr(step.opened, step.axis)}",
        epochs=epochs,
        opened=step.opened,
        subnets_per_step={"kernel_size": 1, "depth": 2}.get(step.axis, 4),
        teacher="frozen",
        learning_rate=learning_rate,
        warmup_epochs=warmup_epochs,
        warmup_start=warmup_start,
        sort_channels=step.num_trained if step.axis == "expand_ratio" else None,
    )


def _shrinking_steps(space: SearchSpace) -> list[_Shrink]:
    """Return how the axes of a space open, one after another."""
    options: dict[str, int] = {}
    for gene in space.genes:
        options[gene.axis] = max(options.get(gene.axis, 1), len(gene.choices))
    kernels = options.get("kernel_size", 1)
    opening = [("kernel_size", kernels, 0)] if kernels > 1 else []
    for axis in ("depth", "expand_ratio", "width_mult"):
        opening += [(axis, count, count - 2) for count in range(2, options.get(axis, 1) + 1)]
    steps = []
    opened = _ALL_CLOSED
    for axis, count, num_trained in opening:
        # The stem of a ResNet50D is skipped or not: it opens with the depths.
        stem = None if axis == "depth" else opened.stem_depth
        opened = replace(opened, stem_depth=stem, **{axis: count})
        steps.append(
            _Shrink(
                axis=axis,
                opened=opened,
                num_trained=num_trained,
                is_last=count == options[axis],
            )
        )
    return steps
