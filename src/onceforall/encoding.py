"""Populations: many archs as one integer matrix.

A population is a ``(N, G)`` uint8 array: row ``n`` holds, for every gene of ``SearchSpace.genes``
in that order, the index of the option chosen. A row is *canonical* when the genes of blocks that
depth switches off are 0; canonical rows are equal exactly when their archs are.

Shape legend: ``N`` archs, ``G`` genes, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.arch import Arch
from onceforall.errors import ArchError
from onceforall.genes import Axis, Gene, Place, block_choices, choice_of
from onceforall.space import SearchSpace

Rows = NDArray[np.uint8]
Features = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """The genes of one search space, compiled to index arrays.

    Attributes:
        space: The search space; two encodings are equal when their spaces are.
        genes: Its genes, in row order.
        num_options: Options of each gene, ``(G,)`` int64.
        switch: For a gene of a block that depth can switch off, the index of the depth gene of
            its stage; -1 for every other gene. ``(G,)`` int64.
        threshold: Smallest option index of that depth gene that keeps the block, ``(G,)`` int64.
        unit: Genes of one block share a number, every other gene has its own. ``(G,)`` int64.
        index: Row column of each place that a gene decides; several places may share one.
    """

    space: SearchSpace
    genes: tuple[Gene, ...] = field(init=False)
    num_options: NDArray[np.int64] = field(init=False)
    switch: NDArray[np.int64] = field(init=False)
    threshold: NDArray[np.int64] = field(init=False)
    unit: NDArray[np.int64] = field(init=False)
    index: Mapping[Place, int] = field(init=False)

    def __post_init__(self) -> None:
        genes = self.space.genes
        columns = {gene: column for column, gene in enumerate(genes)}
        index: dict[Place, int] = {
            place: columns[gene] for place, gene in self.space.places.items()
        }
        switches = [switch_of(self.space, gene, index) for gene in genes]
        places = [(g.stage, g.block) if g.block >= 0 else g for g in genes]
        numbers = {place: i for i, place in enumerate(dict.fromkeys(places))}
        values: dict[str, Any] = {
            "genes": genes,
            "num_options": np.array([len(gene.choices) for gene in genes], dtype=np.int64),
            "switch": np.array([switch for switch, _ in switches], dtype=np.int64),
            "threshold": np.array([threshold for _, threshold in switches], dtype=np.int64),
            "unit": np.array([numbers[place] for place in places], dtype=np.int64),
            "index": index,
        }
        if genes and values["num_options"].max() > 255:
            raise ArchError(f"a gene has {values['num_options'].max()} options; 255 is the most")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoding) and self.space == other.space

    def __hash__(self) -> int:
        return hash(self.space)

    @property
    def num_genes(self) -> int:
        """Return ``G``."""
        return len(self.genes)

    def gene_index(self, axis: str, stage: int = -1, block: int = -1) -> int | None:
        """Return the column of a gene, or None where that choice has one option only."""
        return self.index.get((axis, stage, block))

    def options(self, place: Place) -> Sequence[Any]:
        """Return what a place chooses from: one option where it is rigid, None where absent."""
        column = self.index.get(place)
        return self.genes[column].choices if column is not None else (_rigid(self.space, place),)

    # -- between archs and rows -----------------------------------------------------------------

    def from_archs(self, archs: Sequence[Arch]) -> Rows:
        """Return the canonical rows ``(N, G)`` of archs.

        Raises:
            ArchError: If an arch is not in the space.
        """
        positions = [{choice: i for i, choice in enumerate(gene.choices)} for gene in self.genes]
        rows = np.zeros((len(archs), self.num_genes), dtype=np.uint8)
        for row, arch in zip(rows, archs, strict=True):
            self.space.check(arch)
            for g, gene in enumerate(self.genes):
                if gene.counts_in(arch):
                    row[g] = positions[g][choice_of(arch, gene)]
        return rows

    def to_archs(self, rows: Rows) -> list[Arch]:
        """Return the archs of rows ``(N, G)``.

        Raises:
            ArchError: If the rows have the wrong shape or an index out of range.
        """
        return [self.space.decode(row) for row in self.check(rows).tolist()]

    def check(self, rows: Rows) -> Rows:
        """Return ``rows``; raise :class:`ArchError` if they are not rows of this space."""
        if rows.ndim != 2 or rows.shape[1] != self.num_genes:
            raise ArchError(f"rows have shape {rows.shape}, the space needs (N, {self.num_genes})")
        wrong = np.argwhere((rows < 0) | (rows >= self.num_options))
        if len(wrong):
            n, g = wrong[0]
            raise ArchError(
                f"row {n}: gene {self.genes[g].axis} index {rows[n, g]} is not in "
                f"0..{self.num_options[g] - 1}"
            )
        return rows

    # -- canonical form -------------------------------------------------------------------------

    def active(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which genes count: False for those of blocks that do not run, ``(N, G)``."""
        result = np.ones(rows.shape, dtype=np.bool_)
        on = self.switch >= 0
        result[:, on] = rows[:, self.switch[on]] >= self.threshold[on]
        return result

    def canonical(self, rows: Rows) -> Rows:
        """Return a copy of ``rows`` in which the genes that do not count are 0."""
        result = np.array(rows, dtype=np.uint8, order="C")
        on = self.switch >= 0
        result[:, on] *= result[:, self.switch[on]] >= self.threshold[on]
        return result

    def depths(self, rows: Rows) -> NDArray[np.int64]:
        """Return the number of blocks kept in every stage, ``(N, stages)``."""
        result = np.empty((len(rows), len(self.space.stages)), dtype=np.int64)
        for i, stage in enumerate(self.space.stages):
            column = self.gene_index("depth", i)
            choices = np.array(stage.depths)
            result[:, i] = choices[0] if column is None else choices[rows[:, column]]
        return result

    def keys(self, rows: Rows) -> NDArray[np.uint64]:
        """Return one key of ``W`` words for each canonical form, ``(N, W)``; equal iff archs are.

        The words are mixed-radix numbers of as many genes as fit into 64 bits.
        """
        canonical = self.canonical(rows)
        words: list[NDArray[np.uint64]] = []
        room = 1
        for g, count in enumerate(self.num_options.tolist()):
            if not words or room * count > 2**64:
                words.append(np.zeros(len(rows), dtype=np.uint64))
                room = 1
            words[-1] *= np.uint64(count)
            words[-1] += canonical[:, g]
            room *= count
        return np.stack(words, axis=1) if words else np.zeros((len(rows), 1), dtype=np.uint64)

    def unique_index(self, rows: Rows) -> NDArray[np.int64]:
        """Return the ascending positions of the first row of every distinct arch."""
        keys = self.keys(rows)
        order = np.lexsort(keys.T[::-1])  # stable: equal keys keep the order of rows
        same = np.all(keys[order[1:]] == keys[order[:-1]], axis=1)
        first = np.concatenate([np.ones(min(1, len(rows)), dtype=np.bool_), ~same])
        return np.sort(order[first])

    def unique(self, rows: Rows) -> Rows:
        """Return the distinct archs as canonical rows, in order of first appearance."""
        return self.canonical(rows[self.unique_index(rows)])

    # -- drawing and changing rows --------------------------------------------------------------

    def smallest(self) -> Rows:
        """Return the arch with the smallest option of every gene, ``(1, G)``."""
        return np.zeros((1, self.num_genes), dtype=np.uint8)

    def largest(self) -> Rows:
        """Return the arch with the largest option of every gene, ``(1, G)``."""
        return (self.num_options - 1).astype(np.uint8)[None]

    def sample(self, n: int, rng: np.random.Generator) -> Rows:
        """Draw ``n`` archs, every choice uniform and independent; canonical, repeats possible."""
        return self.canonical(self._draw(n, rng))

    def mutate(
        self, rows: Rows, rng: np.random.Generator, probability: float | NDArray[np.float64]
    ) -> Rows:
        """Redraw each gene with a probability; the result is canonical and may be equal.

        Blocks that depth switches on get fresh choices.

        Args:
            rows: Archs, ``(N, G)``.
            rng: Source of randomness.
            probability: One for all genes, or one for each, ``(G,)``; in [0, 1].
        """
        redraw = (rng.random(rows.shape) < probability) | ~self.active(rows)
        return self.canonical(np.where(redraw, self._draw(len(rows), rng), rows))

    def mutate_units(
        self, rows: Rows, rng: np.random.Generator, probability: float | NDArray[np.float64]
    ) -> Rows:
        """Redraw whole blocks, like :meth:`mutate` with one toss for all genes of a block.

        Args:
            rows: Archs, ``(N, G)``.
            rng: Source of randomness.
            probability: One for all units, or one for each unit number, ``(units,)``.

        Source: the published evolution resamples kernel size and expand ratio of a block together.
        """
        num_units = int(self.unit.max(initial=-1)) + 1
        redraw = (rng.random((len(rows), num_units)) < probability)[:, self.unit]
        redraw |= ~self.active(rows)
        return self.canonical(np.where(redraw, self._draw(len(rows), rng), rows))

    def crossover(self, a: Rows, b: Rows, rng: np.random.Generator) -> Rows:
        """Take each gene of row ``n`` from ``a[n]`` or ``b[n]`` with equal probability.

        A block that runs in one parent only can be taken from that one only.
        """
        in_a, in_b = self.active(a), self.active(b)
        from_a = np.where(in_a == in_b, rng.random(a.shape) < 0.5, in_a)
        return self.canonical(np.where(from_a, a, b))

    def _draw(self, n: int, rng: np.random.Generator) -> Rows:
        return rng.integers(0, self.num_options, size=(n, self.num_genes)).astype(np.uint8)

    # -- features -------------------------------------------------------------------------------

    def features(self, rows: Rows) -> Features:
        """Return one-hot features ``(N, F)`` in {0, 1}, ``F`` the number of options in all.

        Gene by gene in row order, one feature for each option; the options of genes that do not
        count are all 0.
        """
        result = np.zeros((len(rows), int(self.num_options.sum())), dtype=np.float32)
        n, g = np.nonzero(self.active(rows))
        result[n, self._starts[g] + rows[n, g]] = 1
        return result

    @property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.num_options) - self.num_options


def switch_of(space: SearchSpace, gene: Gene, index: Mapping[Place, int]) -> tuple[int, int]:
    """Return the depth gene that can switch a gene off, and its smallest option that does not."""
    if gene.block < 0:
        return -1, 0
    depths = space.stages[gene.stage].depths
    threshold = sum(depth <= gene.block for depth in depths)
    return (index["depth", gene.stage, -1], threshold) if threshold else (-1, 0)


def _rigid(space: SearchSpace, place: Place) -> Any:
    """Return the option of a choice that is rigid in ``space``; None where it is absent."""
    axis: Axis = place[0]  # type: ignore[assignment]
    at, block = place[1:]
    if axis == "resolution":
        return space.resolutions[0]
    if axis == "stem_depth":
        return space.stem_depths[0] if space.stem_depths else None
    if axis == "width_mult":
        return space.width_sites[at][0] if at < len(space.width_sites) else None
    stage = space.stages[at]
    return stage.depths[0] if axis == "depth" else block_choices(stage, axis, block)[0]
