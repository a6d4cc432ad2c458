"""Which subnets a step trains: a pure function of (seed, step)."""

from __future__ import annotations

import random

from onceforall.arch import Arch
from onceforall.space import SearchSpace
from onceforall.train.plan import Phase


def draw_archs(
    phase: Phase, space: SearchSpace, *, seed: int, step: int, progress: float, resolution: int
) -> list[Arch]:
    """Return the subnets of one step, the same on every rank.

    Args:
        phase: Says how many and how they are drawn.
        space: The phase's open space.
        seed: Seed of the run.
        step: Global step; with ``seed`` it decides everything.
        progress: Share of the phase already done, in [0, 1); a ramp depends on it.
        resolution: Input side of the step's batch, which all its subnets take.

    Returns:
        ``phase.subnets_per_step`` archs. In a sandwich the first is the largest, the second the
        smallest.
    """
    at_size = space.restrict(resolution=(resolution,))
    if phase.draw == "largest":
        return [at_size.largest]
    rng = random.Random(f"{seed}/archs/{step}")
    archs = []
    if phase.draw == "sandwich":
        archs = [at_size.largest, at_size.smallest]
    while len(archs) < phase.subnets_per_step:
        archs.append(at_size.sample(rng))
    if phase.ramp > 0 and progress < phase.ramp:
        share = progress / phase.ramp
        archs = [archs[0], *(_towards_largest(at_size, a, share, rng) for a in archs[1:])]
    return archs


def draw_resolution(space: SearchSpace, *, seed: int, step: int) -> int:
    """Return the input side of one step's batch, uniform over the open resolutions."""
    return random.Random(f"{seed}/resolution/{step}").choice(space.resolutions)


def _towards_largest(space: SearchSpace, arch: Arch, share: float, rng: random.Random) -> Arch:
    """Keep each gene's choice with probability ``share``, else take its largest option."""
    row = [
        index if rng.random() < share else len(gene.choices) - 1
        for gene, index in zip(space.genes, space.encode(arch), strict=True)
    ]
    return space.decode(row)
