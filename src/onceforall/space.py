"""SearchSpace: the legal choices of every elastic axis, and archs drawn from them.

A space is a list of *genes*, one for each choice that has at least two options; an arch of the
space is then a row of option indices. ``encoding.py`` works on whole matrices of such rows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onceforall.arch import Arch
from onceforall.errors import ArchError
from onceforall.genes import (
    Axis,
    Change,
    Choice,
    Gene,
    Place,
    StageChoices,
    block_choices,
    check_ascending,
    check_uniform,
    choice_of,
    narrowed,
    values_of,
)
from onceforall.membership import violation
from onceforall.published_archs import arch_from_published


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """The set of legal archs of one supernet, or a restriction of it.

    Attributes:
        stages: Choices of each stage.
        resolutions: Input sides in pixels, ascending.
        stem_width_mults: Width multipliers of each elastic width site of the stem.
        stem_depths: Choices of the stem switch, ascending; empty when the stem has none.
        is_uniform: Whether all stages and blocks make one choice together on each axis. The
            places that have several options must then have the same ones; rigid places stay.
    """

    stages: tuple[StageChoices, ...]
    resolutions: tuple[int, ...]
    stem_width_mults: tuple[tuple[float, ...], ...] = ()
    stem_depths: tuple[int, ...] = ()
    is_uniform: bool = False

    def __post_init__(self) -> None:
        check_ascending("resolutions", self.resolutions)
        for site in self.stem_width_mults:
            check_ascending("stem_width_mults", site)
        if self.is_uniform:
            check_uniform(self.physical_genes)

    # -- structure ------------------------------------------------------------------------------

    @property
    def width_sites(self) -> tuple[tuple[float, ...], ...]:
        """Return the choices of every elastic width site: stem sites, then stages."""
        return self.stem_width_mults + tuple(s.width_mults for s in self.stages if s.width_mults)

    @property
    def genes(self) -> tuple[Gene, ...]:
        """Return the genes in a fixed order: whole-net choices, depths, kernels, expand ratios."""
        if not self.is_uniform:
            return self.physical_genes
        return tuple(dict.fromkeys(self.places.values()))

    @property
    def places(self) -> dict[Place, Gene]:
        """Return the gene that decides each place with several options, in the order of genes.

        In a uniform space one gene decides all places of an axis; its own place is that of the
        first stage.
        """
        physical = self.physical_genes
        leading: dict[str, Gene] = {}
        if self.is_uniform:
            for gene in physical:
                leading.setdefault(gene.axis, replace(gene, block=-1))
        deciding = {gene.place: leading.get(gene.axis, gene) for gene in physical}
        return deciding | {gene.place: gene for gene in leading.values()}

    @property
    def physical_genes(self) -> tuple[Gene, ...]:
        """Return one gene for each place with several options."""
        genes = [
            Gene(axis="resolution", stage=-1, block=-1, choices=self.resolutions),
            Gene(axis="stem_depth", stage=-1, block=-1, choices=self.stem_depths),
        ]
        genes += [
            Gene(axis="width_mult", stage=i, block=-1, choices=choices)
            for i, choices in enumerate(self.width_sites)
        ]
        genes += [
            Gene(axis="depth", stage=i, block=-1, choices=stage.depths)
            for i, stage in enumerate(self.stages)
        ]
        for axis in ("kernel_size", "expand_ratio"):
            genes += [
                Gene(axis=axis, stage=i, block=block, choices=block_choices(stage, axis, block))
                for i, stage in enumerate(self.stages)
                for block in range(stage.depths[-1])
            ]
        return tuple(gene for gene in genes if len(gene.choices) > 1)

    @property
    def size(self) -> int:
        """Return the exact number of distinct archs, resolutions included."""
        if self.is_uniform:
            return math.prod(len(gene.choices) for gene in self.genes)
        count = len(self.resolutions) * max(1, len(self.stem_depths))
        count *= math.prod(len(choices) for choices in self.width_sites)
        for stage in self.stages:
            per_block = [
                len(block_choices(stage, "kernel_size", block))
                * len(block_choices(stage, "expand_ratio", block))
                for block in range(stage.depths[-1])
            ]
            count *= sum(math.prod(per_block[:depth]) for depth in stage.depths)
        return count

    # -- membership -----------------------------------------------------------------------------

    def contains(self, arch: Arch) -> bool:
        """Return whether ``arch`` is in the space."""
        return self.violation(arch) is None

    def check(self, arch: Arch) -> Arch:
        """Return ``arch``; raise :class:`ArchError` naming the first choice outside the space."""
        violation = self.violation(arch)
        if violation is not None:
            raise ArchError(violation)
        return arch

    def violation(self, arch: Arch) -> str | None:
        """Say what puts ``arch`` outside the space, or return None."""
        return violation(self, arch)

    # -- archs as rows of option indices --------------------------------------------------------

    def encode(self, arch: Arch) -> tuple[int, ...]:
        """Return the option index of every gene; genes of blocks that do not run are 0.

        Raises:
            ArchError: If ``arch`` is not in the space.
        """
        self.check(arch)
        return tuple(
            gene.choices.index(choice_of(arch, gene)) if gene.counts_in(arch) else 0
            for gene in self.genes
        )

    def decode(self, row: Sequence[int]) -> Arch:
        """Return the arch of one row of option indices; the inverse of :meth:`encode`.

        Raises:
            ArchError: If the row has the wrong length or an index out of range.
        """
        genes = self.genes
        if len(row) != len(genes):
            raise ArchError(f"row has {len(row)} genes where the space has {len(genes)}")
        for gene, index in zip(genes, row, strict=True):
            if not 0 <= index < len(gene.choices):
                raise ArchError(
                    f"gene {gene.axis} index {index} is not in 0..{len(gene.choices) - 1}"
                )
        picked: dict[Place, Choice] = {
            gene.place: gene.choices[index] for gene, index in zip(genes, row, strict=True)
        }
        return self._build(picked)

    def _build(self, picked: Mapping[Place, Choice]) -> Arch:
        """Return the arch with the picked choices; what no gene decides has one option only."""
        if self.is_uniform:
            picked = {place: picked[gene.place] for place, gene in self.places.items()}

        def pick(axis: str, stage: int, block: int, choices: Sequence[Any]) -> Any:
            return picked.get((axis, stage, block), choices[0])

        def blocks(axis: Axis) -> tuple[tuple[Any, ...], ...]:
            return tuple(
                tuple(
                    pick(axis, i, block, block_choices(stage, axis, block))
                    for block in range(stage.num_blocks)
                )
                for i, stage in enumerate(self.stages)
            )

        return Arch(
            resolution=pick("resolution", -1, -1, self.resolutions),
            depth=tuple(pick("depth", i, -1, s.depths) for i, s in enumerate(self.stages)),
            kernel_size=blocks("kernel_size"),
            expand_ratio=blocks("expand_ratio"),
            width_mult=tuple(
                pick("width_mult", i, -1, site) for i, site in enumerate(self.width_sites)
            ),
            stem_depth=pick("stem_depth", -1, -1, self.stem_depths or (None,)),
        )

    # -- drawing archs --------------------------------------------------------------------------

    def sample(
        self, rng: random.Random, given: Mapping[str, Sequence[Choice]] | None = None
    ) -> Arch:
        """Draw an arch, each choice uniform and independent; one option needs no draw.

        The order of draws is the published one (kernel sizes, expand ratios, stem, depths,
        widths), so that a generator seeded with 0 gives the published sample; resolution is last.

        Args:
            rng: Generator of the draws.
            given: Options of some axes, of which each place has one; of one, too, a draw is made.
        """
        order: tuple[Axis, ...] = (
            "kernel_size", "expand_ratio", "stem_depth", "depth", "width_mult", "resolution",
        )  # fmt: skip
        genes = self.genes
        picked: dict[Place, Choice] = {}
        for axis in order:
            for gene in genes:
                if gene.axis == axis:
                    # The published stem choice lists its options largest first.
                    choices = gene.choices[::-1] if axis == "stem_depth" else gene.choices
                    if given and axis in given:
                        choices = tuple(c for c in given[axis] if c in choices)
                    picked[gene.place] = rng.choice(choices)
        return self._build(picked)

    def mutate(self, arch: Arch, rng: random.Random, *, probability: float = 0.1) -> Arch:
        """Redraw each gene of ``arch`` with the given probability; the result may be equal.

        Blocks that depth switches on get fresh choices.
        """
        row = [
            rng.randrange(len(gene.choices))
            if rng.random() < probability or not gene.counts_in(arch)
            else index
            for gene, index in zip(self.genes, self.encode(arch), strict=True)
        ]
        return self.decode(row)

    def crossover(self, first: Arch, second: Arch, rng: random.Random) -> Arch:
        """Take each gene from either parent with equal probability.

        A block that runs in one parent only can be taken from that one only.
        """
        row = []
        genes = zip(self.genes, self.encode(first), self.encode(second), strict=True)
        for gene, of_first, of_second in genes:
            in_first, in_second = gene.counts_in(first), gene.counts_in(second)
            from_first = rng.random() < 0.5 if in_first == in_second else in_first
            row.append(of_first if from_first else of_second)
        return self.decode(row)

    def neighbours(self, arch: Arch) -> Iterator[Arch]:
        """Yield every distinct arch that differs from ``arch`` in one gene."""
        row = self.encode(arch)
        seen = {arch}
        for position, gene in enumerate(self.genes):
            for index in range(len(gene.choices)):
                other = self.decode((*row[:position], index, *row[position + 1 :]))
                if other not in seen:
                    seen.add(other)
                    yield other

    # -- particular archs -----------------------------------------------------------------------

    @property
    def smallest(self) -> Arch:
        """Return the arch with the smallest option of every gene."""
        return self.decode([0] * len(self.genes))

    @property
    def largest(self) -> Arch:
        """Return the arch with the largest option of every gene."""
        return self.decode([len(gene.choices) - 1 for gene in self.genes])

    def uniform(
        self,
        *,
        kernel_size: int | None = None,
        expand_ratio: float | None = None,
        depth: int | None = None,
        width_mult: float | None = None,
        stem_depth: int | None = None,
        resolution: int | None = None,
    ) -> Arch:
        """Return the arch with one value everywhere on each axis.

        An axis that is not given takes its largest option. A stage, block or site that is rigid
        on an axis keeps its only option.

        Raises:
            ArchError: If a value is not an option of an elastic gene, or of no gene at all.
        """
        wanted: dict[Axis, Choice | None] = {
            "resolution": resolution, "stem_depth": stem_depth, "width_mult": width_mult,
            "depth": depth, "kernel_size": kernel_size, "expand_ratio": expand_ratio,
        }  # fmt: skip
        row = []
        for gene in self.genes:
            value = wanted[gene.axis]
            if value is not None and value not in gene.choices:
                raise ArchError(f"{gene.axis} {value} is not one of {gene.choices}")
            row.append(len(gene.choices) - 1 if value is None else gene.choices.index(value))
        arch = self.decode(row)
        elastic = {gene.axis for gene in self.genes}
        for axis, value in wanted.items():
            if value is not None and axis not in elastic and value not in values_of(arch, axis):
                allowed = values_of(arch, axis) or "absent: that axis does not exist in this space"
                raise ArchError(f"{axis} {value} is not one of {allowed}")
        return arch

    def from_published(
        self, published: Mapping[str, Any], *, resolution: int | None = None
    ) -> Arch:
        """Return the arch of a published spelling such as ``{"ks": 5, "e": 4, "d": [2, 3, 4]}``.

        See :func:`~onceforall.published_archs.arch_from_published`; the inverse is
        ``arch.to_published()``.

        Raises:
            ArchError: If a key is unknown, a list has the wrong length, or a value is outside.
        """
        return arch_from_published(self, published, resolution=resolution)

    # -- restrictions ---------------------------------------------------------------------------

    def restrict(
        self,
        *,
        resolution: Iterable[int] | None = None,
        stem_depth: Iterable[int] | None = None,
        width_mult: Iterable[float] | None = None,
        depth: Iterable[int] | None = None,
        kernel_size: Iterable[int] | None = None,
        expand_ratio: Iterable[float] | None = None,
    ) -> SearchSpace:
        """Return the part of the space with the given options on each axis given.

        A stage or site that is rigid on an axis keeps its only option.

        Raises:
            ArchError: If nothing would be left of an elastic choice, or an option is unknown.
        """
        keep = {
            axis: None if options is None else tuple(options)
            for axis, options in (
                ("resolution", resolution), ("stem_depth", stem_depth),
                ("width_mult", width_mult), ("depth", depth),
                ("kernel_size", kernel_size), ("expand_ratio", expand_ratio),
            )
        }  # fmt: skip
        for axis, options in keep.items():
            known = {c for choices in self._axis_choices(axis) for c in choices}
            for option in options or ():
                if option not in known:
                    raise ArchError(f"{axis} {option} is not one of {tuple(sorted(known))}")
        return self._map(lambda axis, choices: narrowed(axis, choices, keep[axis]))

    def keep_largest(self, **counts: int) -> SearchSpace:
        """Return the part of the space with the ``n`` largest options on each axis given.

        This is how a phase of progressive shrinking is spelled: ``keep_largest(depth=1)`` has
        full depth only, ``keep_largest(depth=2)`` also one step less.

        Raises:
            ArchError: If an axis is unknown or a count is below 1.
        """
        for axis, count in counts.items():
            if axis not in Axis.__args__ or count < 1:  # type: ignore[attr-defined]
                raise ArchError(f"{axis}={count} is not an axis {Axis.__args__} with a count >= 1")  # type: ignore[attr-defined]
        return self._map(lambda axis, choices: choices[-counts.get(axis, len(choices) or 1) :])

    def _axis_choices(self, axis: str) -> list[Sequence[Choice]]:
        if axis == "resolution":
            return [self.resolutions]
        if axis == "stem_depth":
            return [self.stem_depths]
        if axis == "width_mult":
            return list(self.width_sites)
        names = {"depth": "depths", "kernel_size": "kernel_sizes", "expand_ratio": "expand_ratios"}
        return [getattr(stage, names[axis]) for stage in self.stages]

    def _map(self, change: Change) -> SearchSpace:
        """Return the space with ``change(axis, choices)`` applied to every list of options."""
        return SearchSpace(
            resolutions=change("resolution", self.resolutions),
            is_uniform=self.is_uniform,
            stem_depths=change("stem_depth", self.stem_depths),
            stem_width_mults=tuple(change("width_mult", site) for site in self.stem_width_mults),
            stages=tuple(stage.changed(change) for stage in self.stages),
        )
