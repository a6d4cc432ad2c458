"""One training step: several subnets, one batch, one update.

Shape suffixes: B batch, K classes, S subnets of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onceforall.arch import Arch
from onceforall.data.images.device_ops import send
from onceforall.measure.accuracy import count_correct
from onceforall.supernets.nets import ElasticNet
from onceforall.supernets.single import SingleArchNet
from onceforall.training.freezing import frozen_statistics
from onceforall.training.losses import adaptive_alpha_loss, label_loss, soft_target_loss
from onceforall.training.plan import Phase, Plan
from onceforall.training.ranks import Ranks, sum_gradients

MicroBatch = tuple[Tensor, Tensor]
Trainable = ElasticNet | SingleArchNet


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step measured, over all ranks.

    Attributes:
        losses: Mean loss of each subnet, in the order of its archs.
        top1: Share of images each subnet got right, in [0, 1].
        label_loss: Mean loss to labels of the leading subnet, whatever it learns from.
        votes: For each vote cast, whether any rank said yes.
    """

    losses: tuple[float, ...]
    top1: tuple[float, ...]
    label_loss: float
    votes: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNumbers:
    """What a step measured, on its way from the device to the host.

    A GPU computes while the host goes on; the host waits for it in :meth:`read` and nowhere else.

    Attributes:
        means: Label loss of the leading subnet, then loss and top-1 of each, float64 ``(1 + 2 S,)``
            on the host, from ``arrived`` on.
        votes: Ranks that said yes to each vote, ``(V,)``, likewise.
        arrived: When they are there; None if they are already.
    """

    means: Tensor
    votes: Tensor
    arrived: torch.cuda.Event | None

    def read(self) -> StepResult:
        """Wait for the numbers, though not for what the device does after them."""
        if self.arrived is not None:
            self.arrived.synchronize()
        label, *rest = self.means.tolist()
        return StepResult(
            losses=tuple(rest[::2]),
            top1=tuple(rest[1::2]),
            label_loss=label,
            votes=tuple((self.votes > 0).tolist()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What stays the same over the steps of a phase.

    Attributes:
        teacher: Frozen network, or None.
        autocast: Whether the forward passes run in bfloat16.
    """

    plan: Plan
    phase: Phase
    ranks: Ranks
    teacher: Trainable | None = None
    autocast: bool = False


def accumulate_gradients(
    net: Trainable,
    micro_batches: Sequence[MicroBatch],
    archs: Sequence[Arch],
    context: StepContext,
    *,
    votes: Sequence[bool] = (),
) -> StepNumbers:
    """Add the gradients of every subnet on every micro-batch, averaged over ranks.

    Everything that ranks exchange in a step travels in one collective. On a GPU nothing of it is
    done when the function returns: what uses the gradients may be queued behind it.

    Args:
        net: Supernet in training mode; gradients are set to None first.
        micro_batches: Images ``(B, 3, R, R)`` and labels; their gradients are averaged over
            images, so that several small ones, equal or not, stand for one large one (batch norm
            works on each alone).
        archs: The step's subnets; in a sandwich the largest is first.
        context: What stays the same over the phase.
        votes: Questions that all ranks must answer alike, e.g. whether to stop.
    """
    net.zero_grad(set_to_none=True)
    totals = []
    num_images = sum(len(images) for images, _ in micro_batches)
    for images, labels in micro_batches:
        share = len(images) / num_images
        totals.append(share * _one_batch(net, images, labels, archs, context, share))
    sums = torch.stack(totals).sum(dim=0)  # (1 + 2 S,)
    yes = torch.tensor([float(vote) for vote in votes], dtype=sums.dtype)
    ranks, count = context.ranks, len(sums)
    if ranks.world_size == 1:  # the answers are on the host already
        means, arrived = _to_host(sums)
        return StepNumbers(means=means, votes=yes, arrived=arrived)
    extra = torch.cat([sums, send(yes, sums.device)])
    extra = sum_gradients(list(net.parameters()), extra, ranks)
    extra[:count] /= ranks.world_size
    numbers, arrived = _to_host(extra)
    return StepNumbers(means=numbers[:count], votes=numbers[count:], arrived=arrived)


def _to_host(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Return where values will be on the host, and when; a GPU's queue is not waited for."""
    if values.device.type != "cuda":
        return values, None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(values.device))
    return host, arrived


def _one_batch(
    net: Trainable,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Arch],
    context: StepContext,
    share: float,
) -> Tensor:
    """Backpropagate every subnet.

    Returns:
        Label loss of the leading subnet, then loss and top-1 of each, float64 ``(1 + 2 S,)``.
    """
    plan, phase = context.plan, context.phase
    device = images.device.type
    teacher_BK: Tensor | None = None
    if phase.teacher == "frozen" and context.teacher is not None:
        with torch.no_grad(), frozen_statistics(context.teacher):
            with torch.autocast(device, torch.bfloat16, enabled=context.autocast):
                teacher_BK = context.teacher(images, _largest(context.teacher, archs[0]))
            teacher_BK = teacher_BK.float() if context.autocast else teacher_BK
    scale = share / len(archs) if plan.mean_over_subnets else share
    results: list[Tensor] = []
    for arch in archs:
        with torch.autocast(device, torch.bfloat16, enabled=context.autocast):
            logits_BK = net(images, arch)
        logits_BK = logits_BK.float() if context.autocast else logits_BK
        loss = _loss(logits_BK, labels, teacher_BK, context)
        if loss.requires_grad:  # not where only transforms learn and the largest kernels ran
            (loss * scale).backward()  # type: ignore[no-untyped-call]
        if phase.teacher == "in_place" and teacher_BK is None:
            teacher_BK = logits_BK.detach()
        classes = labels if labels.dim() == 1 else labels.argmax(dim=1)
        hits = count_correct(logits_BK.detach(), classes)[0] / len(classes)
        if not results:
            smoothing = plan.label_smoothing
            results.append(label_loss(logits_BK.detach(), labels, label_smoothing=smoothing))
        results += [loss.detach(), hits]
    return torch.stack([result.double() for result in results])


def _loss(
    logits_BK: Tensor, labels: Tensor, teacher_BK: Tensor | None, context: StepContext
) -> Tensor:
    """Return the loss of one subnet.

    The largest subnet of a sandwich learns from labels, the others from it alone. With a frozen
    teacher every subnet learns from both, as published.
    """
    plan = context.plan
    if teacher_BK is None:
        return label_loss(logits_BK, labels, label_smoothing=plan.label_smoothing)
    if plan.distillation == "alpha":
        distilled = adaptive_alpha_loss(logits_BK, teacher_BK)
    else:
        distilled = soft_target_loss(logits_BK, teacher_BK.softmax(dim=1))
    if context.phase.teacher == "in_place":
        return distilled
    hard = label_loss(logits_BK, labels, label_smoothing=plan.label_smoothing)
    return plan.distillation_weight * distilled + hard


def _largest(net: Trainable, arch: Arch) -> Arch:
    space = net.space
    if arch.resolution in space.resolutions:
        space = space.restrict(resolution=(arch.resolution,))
    return space.largest
