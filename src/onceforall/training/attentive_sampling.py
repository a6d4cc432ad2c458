"""Attentive sampling: of several subnets of like cost, train the best or the worst.

The sandwich rule draws its random subnets uniformly, so it spends most steps on subnets that no
front will ever hold. Attentive sampling looks at a few candidates of about the same MACs first
and trains the one whose loss on the step's batch is smallest (which improves the best front) or
largest (which lifts the worst one).

Source: Wang et al., *AttentiveNAS*, CVPR 2021, section 3, with the mini-batch loss as measure.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from onceforall.arch import Arch
from onceforall.measure.costs import count_macs
from onceforall.space import SearchSpace
from onceforall.supernets.single import SingleArchNet
from onceforall.training.freezing import frozen_statistics
from onceforall.training.losses import label_loss
from onceforall.training.ranks import sum_over_ranks
from onceforall.training.sampling import draw_candidates
from onceforall.training.step import MicroBatch, StepContext, Trainable


def choose_attentively(
    net: Trainable,
    batch: MicroBatch,
    archs: Sequence[Arch],
    context: StepContext,
    *,
    space: SearchSpace,
    seed: str,
) -> list[Arch]:
    """Return the step's subnets with each random one replaced by the chosen one of its cost.

    The candidates' losses are summed over ranks in one collective, so that all ranks choose the
    same. Batch norm uses the batch, as in training; no running statistic changes.

    Args:
        net: Supernet in training mode.
        batch: Images ``(B, 3, R, R)`` and labels to look at.
        archs: The step's subnets as drawn; the largest and smallest of a sandwich stay.
        context: Its phase says which candidate is wanted and how many there are.
        space: The phase's open space.
        seed: Names the step.
    """
    phase = context.phase
    if phase.draw == "largest" or isinstance(net, SingleArchNet):
        return list(archs)
    spec = net.spec

    def macs_of(arch: Arch) -> int:
        return count_macs(spec.blueprint(arch), resolution=arch.resolution)

    at_size = space.restrict(resolution=(archs[0].resolution,))
    ends = (at_size.largest, at_size.smallest) if phase.draw == "sandwich" else ()
    numbers = itertools.count()
    groups = [
        [arch]
        if arch in ends
        else draw_candidates(
            arch,
            space,
            macs_of,
            count=phase.attentive_candidates,
            seed=f"{seed}/candidates/{next(numbers)}",
        )
        for arch in archs
    ]
    open_groups = [group for group in groups if len(group) > 1]
    losses = [_loss(net, batch, arch, context) for group in open_groups for arch in group]
    if not losses:
        return list(archs)
    summed = sum_over_ranks(torch.stack(losses), context.ranks).tolist()
    sign = 1 if phase.attentive == "best" else -1
    chosen = []
    for group in groups:
        if len(group) == 1:
            chosen += group
            continue
        mine, summed = summed[: len(group)], summed[len(group) :]
        chosen.append(group[min(range(len(group)), key=lambda i: sign * mine[i])])
    return chosen


def _loss(net: Trainable, batch: MicroBatch, arch: Arch, context: StepContext) -> Tensor:
    """Return the mean loss to labels, float64 without dimension."""
    images, labels = batch
    with torch.no_grad(), frozen_statistics(net):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=context.autocast):
            logits_BK = net(images, arch)
        return label_loss(logits_BK.float(), labels).double()
