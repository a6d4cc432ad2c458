"""Which subnets a step trains, at which resolution: a pure function of the moment."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from onceforall.arch import Arch
from onceforall.data import published_resolution
from onceforall.space import SearchSpace
from onceforall.training.plan import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When something is drawn.

    Attributes:
        seed: Seed of the run.
        epoch: Epoch of the phase, from 0.
        batch: Batch of the epoch, from 0.
        batches: Batches of an epoch.
        step: Step of the whole training, from 0.
        progress: Share of the phase already done, in [0, 1).
        published: Use the published seeds, made of epoch and batch, instead of seed and step.
    """

    seed: int
    epoch: int
    batch: int
    batches: int
    step: int
    progress: float = 0.0
    published: bool = False


def draw_archs(phase: Phase, space: SearchSpace, moment: Moment, *, resolution: int) -> list[Arch]:
    """Return the subnets of one step, the same on every rank.

    Args:
        phase: Says how many and how they are drawn.
        space: The phase's open space.
        moment: Decides everything else.
        resolution: Input side of the step's batch, which all its subnets take.

    Returns:
        ``phase.subnets_per_step`` archs. In a sandwich the first is the largest, the second the
        smallest; in one of two subnets the smallest and a random one take turns, in one of a
        single subnet the largest, a random one, the smallest and another random one.
    """
    at_size = space.restrict(resolution=(resolution,))
    if phase.draw == "largest":
        return [at_size.largest]
    archs = []
    if phase.draw == "sandwich":
        ends, turn = [at_size.largest, at_size.smallest], moment.step
        match phase.subnets_per_step:
            case 1:
                archs = [] if turn % 2 else [ends[turn % 4 // 2]]
            case 2:
                archs = ends[: 2 - turn % 2]
            case _:
                archs = ends
    rng = random.Random(f"{moment.seed}/archs/{moment.step}")
    while len(archs) < phase.subnets_per_step:
        if moment.published:
            rng = random.Random(_published_seed(moment, len(archs)))
        archs.append(at_size.sample(rng))
    if phase.ramp > 0 and moment.progress < phase.ramp:
        share = moment.progress / phase.ramp
        # The first of several stays the largest.
        kept = archs[: min(1, phase.subnets_per_step - 1)]
        archs = kept + [_towards_largest(at_size, a, share, rng) for a in archs[len(kept) :]]
    return archs


def draw_resolution(space: SearchSpace, moment: Moment) -> int:
    """Return the input side of one step's batch, uniform over the open resolutions."""
    if moment.published:
        return published_resolution(space.resolutions, epoch=moment.epoch, step=moment.batch)
    rng = random.Random(f"{moment.seed}/resolution/{moment.step}")
    return rng.choice(space.resolutions)


def draw_candidates(
    arch: Arch, space: SearchSpace, macs_of: Callable[[Arch], int], *, count: int, seed: str
) -> list[Arch]:
    """Return ``count`` archs of about the MACs of ``arch``, itself first.

    Of eight draws for each candidate, those nearest in MACs are taken.
    """
    rng = random.Random(seed)
    at_size = space.restrict(resolution=(arch.resolution,))
    target = macs_of(arch)
    drawn = {at_size.sample(rng) for _ in range(8 * (count - 1))} - {arch}
    nearest = sorted(drawn, key=lambda a: (abs(macs_of(a) - target), str(a)))
    return [arch, *nearest[: count - 1]]


def _published_seed(moment: Moment, subnet: int) -> int:
    """Return the published seed of a step's subnet: digits of step, subnet and zero in a row."""
    return int(f"{moment.epoch * moment.batches + moment.batch:d}{subnet:03d}{0:03d}")


def _towards_largest(space: SearchSpace, arch: Arch, share: float, rng: random.Random) -> Arch:
    """Keep each gene's choice with probability ``share``, else take its largest option.

    Blocks that depth switches off have no choice to keep: they get a fresh one, because they may
    be switched on again.
    """
    row = []
    for gene, index in zip(space.genes, space.encode(arch), strict=True):
        kept = index if gene.counts_in(arch) else rng.randrange(len(gene.choices))
        row.append(kept if rng.random() < share else len(gene.choices) - 1)
    return space.decode(row)
