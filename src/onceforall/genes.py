"""What archs differ in: the choices of a stage, and the genes that stand for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from onceforall.arch import Arch
from onceforall.errors import ArchError

# A new axis is a field of Arch, a part of the search space and of slots, and opened by training
# plans (training/plan, training/shrinking).
Axis = Literal["resolution", "stem_depth", "width_mult", "depth", "kernel_size", "expand_ratio"]
Choice = int | float
# Where a choice is made: (axis, stage or width site, block), -1 where there is none.
Place = tuple[str, int, int]
# Gives the options that are left on an axis.
Change = Callable[[Axis, tuple[Any, ...]], tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChoices:
    """The elastic axes of one stage.

    Attributes:
        num_blocks: Physical blocks of the stage in the supernet; no restriction changes it.
        depths: Numbers of blocks that may be kept, ascending.
        kernel_sizes: Depthwise kernel sides, ascending.
        expand_ratios: Expand ratios, ascending.
        width_mults: Width multipliers of the stage's output, ascending; empty when rigid.
        block_kernel_sizes: Kernel sides of each block where blocks differ; ``kernel_sizes`` are
            then all of them together.
        block_expand_ratios: Likewise for expand ratios.
    """

    num_blocks: int
    depths: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[float, ...]
    width_mults: tuple[float, ...] = ()
    block_kernel_sizes: tuple[tuple[int, ...], ...] = ()
    block_expand_ratios: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        for name, of_blocks in (
            ("kernel_sizes", self.block_kernel_sizes),
            ("expand_ratios", self.block_expand_ratios),
        ):
            if len(of_blocks) not in (0, self.num_blocks):
                raise ArchError(f"block_{name} has {len(of_blocks)} of {self.num_blocks} blocks")
            for options in of_blocks:
                check_ascending(f"block_{name}", options)
        for name in ("depths", "kernel_sizes", "expand_ratios"):
            check_ascending(name, getattr(self, name))
        if self.width_mults:
            check_ascending("width_mults", self.width_mults)
        if self.depths[0] < 1 or self.depths[-1] > self.num_blocks:
            raise ArchError(f"depths {self.depths} are not between 1 and {self.num_blocks} blocks")

    def changed(self, change: Change) -> StageChoices:
        """Return the stage with ``change(axis, choices)`` applied to every list of options."""
        return replace(
            self,
            depths=change("depth", self.depths),
            kernel_sizes=change("kernel_size", self.kernel_sizes),
            expand_ratios=change("expand_ratio", self.expand_ratios),
            width_mults=change("width_mult", self.width_mults),
            block_kernel_sizes=tuple(change("kernel_size", of) for of in self.block_kernel_sizes),
            block_expand_ratios=tuple(
                change("expand_ratio", of) for of in self.block_expand_ratios
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gene:
    """One choice with at least two options.

    Attributes:
        axis: Elastic axis that the choice belongs to.
        stage: Stage index; for ``width_mult`` the index of the width site; -1 for the whole net.
        block: Block index within the stage; -1 where the choice is not of one block. The gene of
            a uniform space, which decides all places of its axis, is that of a stage.
        choices: The options, ascending; a gene's value is an index into them.
    """

    axis: Axis
    stage: int
    block: int
    choices: tuple[Choice, ...]

    @property
    def place(self) -> Place:
        """Return where the choice is made."""
        return self.axis, self.stage, self.block

    def counts_in(self, arch: Arch) -> bool:
        """Return whether the gene's block, if it is of one, runs in ``arch``."""
        return self.block < 0 or self.block < arch.depth[self.stage]


def check_ascending(name: str, options: Sequence[Choice]) -> None:
    """Raise ArchError if options are not ascending, distinct and positive."""
    if not options or list(options) != sorted(set(options)) or options[0] < 0:
        raise ArchError(f"{name} must be ascending, distinct and positive, got {options!r}")


def block_choices(stage: StageChoices, axis: Axis, block: int) -> tuple[Choice, ...]:
    """Return what a block of a stage chooses from."""
    if axis == "kernel_size":
        return stage.block_kernel_sizes[block] if stage.block_kernel_sizes else stage.kernel_sizes
    return stage.block_expand_ratios[block] if stage.block_expand_ratios else stage.expand_ratios


def choice_of(arch: Arch, gene: Gene) -> Any:
    """Return what an arch has chosen for a gene."""
    if gene.stage < 0:
        return getattr(arch, gene.axis)
    value = getattr(arch, gene.axis)[gene.stage]
    # Where one gene decides for all blocks, the first one tells: it always runs.
    return value[max(0, gene.block)] if isinstance(value, tuple) else value


def check_uniform(genes: Sequence[Gene]) -> None:
    """Raise ArchError if places of one axis offer different options."""
    first: dict[str, Gene] = {}
    for gene in genes:
        leading = first.setdefault(gene.axis, gene)
        if gene.choices != leading.choices:
            raise ArchError(
                f"a uniform space has the same options everywhere: {gene.axis} of stage "
                f"{gene.stage} has {gene.choices}, of stage {leading.stage} {leading.choices}"
            )


def mixed_choice(arch: Arch, genes: Sequence[Gene]) -> str | None:
    """Say which axis of an arch has several values where one is chosen for all; or None."""
    found: dict[str, Any] = {}
    for gene in genes:
        if gene.counts_in(arch):
            value = choice_of(arch, gene)
            if found.setdefault(gene.axis, value) != value:
                both = f"{found[gene.axis]} and {value}"
                return f"{gene.axis} {both}: a uniform space has one for the whole network"
    return None


def values_of(arch: Arch, axis: Axis) -> tuple[Any, ...]:
    """Return the distinct values of ``arch`` on one axis."""
    value = getattr(arch, axis)
    if value is None:
        return ()
    if not isinstance(value, tuple):
        return (value,)
    flat = [v for part in value for v in (part if isinstance(part, tuple) else (part,))]
    return tuple(sorted(set(flat)))


def narrowed(
    axis: str, choices: tuple[Choice, ...], keep: tuple[Choice, ...] | None
) -> tuple[Choice, ...]:
    """Return the options that are kept; a rigid choice keeps its only one.

    Raises:
        ArchError: If nothing would be left.
    """
    if keep is None or len(choices) < 2:
        return choices
    left = tuple(choice for choice in choices if choice in keep)
    if not left:
        raise ArchError(f"{axis} {keep} leaves nothing of {choices}")
    return left
