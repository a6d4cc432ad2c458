"""Top-1 and top-5 of a network over batches of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onceforall.errors import MeasurementError


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """What an evaluation counted.

    Attributes:
        top1: Fraction of images whose class has the largest logit, in [0, 1].
        top5: Fraction of images whose class is among the five largest logits (all classes, where
            there are fewer than five), in [0, 1].
        loss: Mean cross-entropy, in nats.
        images: Number of images.
    """

    top1: float
    top5: float
    loss: float
    images: int


@torch.no_grad()
def evaluate(
    model: nn.Module | Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    add_up: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> Accuracy:
    """Count correct answers.

    Args:
        model: Network in eval mode, or any callable from images to logits ``(B, num_classes)``.
        batches: Pairs of images ``(B, 3, H, W)`` and labels ``(B,)``, int64, on one device.
        add_up: Given this process's float64 ``(4,)`` sums, returns those of all processes that
            share the images; called once, also where there is no batch for this one.

    Raises:
        MeasurementError: If there is no image, or the model is in training mode.
    """
    if isinstance(model, nn.Module) and model.training:
        raise MeasurementError("accuracy of a network in training mode; call .eval() first")
    totals: Tensor | None = None
    images = 0
    for x, labels in batches:
        counts = count_correct(model(x), labels)
        totals = counts if totals is None else totals + counts
        images += len(labels)
    if totals is None:
        totals = torch.zeros(3, dtype=torch.float64)
    # Whole numbers in float64: the same sum in any order.
    *sums, counted = add_up(torch.cat([totals, totals.new_tensor([images])])).tolist()
    if counted == 0:
        raise MeasurementError("accuracy needs at least 1 image, got 0")
    top1, top5, loss = (total / counted for total in sums)
    return Accuracy(top1=top1, top5=top5, loss=loss, images=int(counted))


def count_correct(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Return (top-1 hits, top-5 hits, cross-entropy) summed over a batch, float64 ``(3,)``."""
    top = logits_BK.topk(min(5, logits_BK.shape[1]), dim=1).indices
    hits = top == labels_B[:, None]
    loss = F.cross_entropy(logits_BK.float(), labels_B, reduction="sum")
    return torch.stack([hits[:, 0].sum().double(), hits.sum().double(), loss.double()])
