"""What archs differ in: the choices of a stage, and the genes that stand for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onceforall.arch import Arch
from onceforall.errors import ArchError

# A new axis is a field of Arch, a part of the search space and of slots, and opened by training
# plans (training/plan, training/shrinking).
Axis = Literal["resolution", "stem_depth", "width_mult", "depth", "kernel_size", "expand_ratio"]
Choice = int | float
# Where a gene is: axis, stage or width site, block; -1 where it is not of one.
Place = tuple[str, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChoices:
    """The elastic axes of one stage.

    Attributes:
        num_blocks: Physical blocks of the stage in the supernet; no restriction changes it.
        depths: Numbers of blocks that may be kept, ascending.
        kernel_sizes: Depthwise kernel sides, ascending.
        expand_ratios: Expand ratios, ascending.
        width_mults: Width multipliers of the stage's output, ascending; empty when rigid.
    """

    num_blocks: int
    depths: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[float, ...]
    width_mults: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("depths", "kernel_sizes", "expand_ratios"):
            check_ascending(name, getattr(self, name))
        if self.width_mults:
            check_ascending("width_mults", self.width_mults)
        if self.depths[0] < 1 or self.depths[-1] > self.num_blocks:
            raise ArchError(f"depths {self.depths} are not between 1 and {self.num_blocks} blocks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gene:
    """One choice with at least two options.

    Attributes:
        axis: Elastic axis that the choice belongs to.
        stage: Stage index; for ``width_mult`` the index of the width site; -1 for the whole net.
        block: Block index within the stage; -1 where the choice is not of one block.
        choices: The options, ascending; a gene's value is an index into them.
    """

    axis: Axis
    stage: int
    block: int
    choices: tuple[Choice, ...]

    def counts_in(self, arch: Arch) -> bool:
        """Return whether the gene's block, if it is of one, runs in ``arch``."""
        return self.block < 0 or self.block < arch.depth[self.stage]


def check_ascending(name: str, options: Sequence[Choice]) -> None:
    """Raise ArchError if options are not ascending, distinct and positive."""
    if not options or list(options) != sorted(set(options)) or options[0] < 0:
        raise ArchError(f"{name} must be ascending, distinct and positive, got {options!r}")


def block_choices(stage: StageChoices, axis: Axis) -> tuple[Choice, ...]:
    """Return what each block of a stage chooses from."""
    return stage.kernel_sizes if axis == "kernel_size" else stage.expand_ratios


def choice_of(arch: Arch, gene: Gene) -> Any:
    """Return what an arch has chosen for a gene."""
    if gene.stage < 0:
        return getattr(arch, gene.axis)
    value = getattr(arch, gene.axis)[gene.stage]
    return value if gene.block < 0 else value[gene.block]


def values_of(arch: Arch, axis: Axis) -> tuple[Any, ...]:
    """Return the distinct values of ``arch`` on one axis."""
    value = getattr(arch, axis)
    if value is None:
        return ()
    if not isinstance(value, tuple):
        return (value,)
    flat = [v for part in value for v in (part if isinstance(part, tuple) else (part,))]
    return tuple(sorted(set(flat)))
