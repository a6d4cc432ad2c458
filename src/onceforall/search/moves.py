"""The neighbourhood that local search walks: one joint change at a time.

A *move* redraws one unit: all genes of a block together, one choice of the whole net, or a depth.
A depth that adds blocks also says which options the new blocks get.

Shape legend: ``N`` archs, ``G`` genes, ``K`` moves, ``U`` units.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onceforall.encoding import Encoding, Rows

# Units with more joint options than this are changed one gene at a time.
_MAX_JOINT_OPTIONS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """Every move of an encoding, compiled.

    Attributes:
        encoding: The encoding.
        values: Options that each move sets, ``(K, G)`` uint8.
        always: Genes that a move sets, ``(K, G)``.
        if_new: Genes that a move sets where their block does not run yet, ``(K, G)``.
        unit: Unit that each move changes, ``(K,)``.
        depth_gene: Column of the depth gene of a move that may add blocks, else -1, ``(K,)``.
        spare: Whether the move repeats another unless it adds blocks, ``(K,)``.
    """

    encoding: Encoding
    values: Rows = field(init=False)
    always: NDArray[np.bool_] = field(init=False)
    if_new: NDArray[np.bool_] = field(init=False)
    unit: NDArray[np.int64] = field(init=False)
    depth_gene: NDArray[np.int64] = field(init=False)
    spare: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        encoding, listed = self.encoding, list(_listed(self.encoding))
        count, genes = len(listed), encoding.num_genes
        values = np.zeros((count, genes), dtype=np.uint8)
        always = np.zeros((count, genes), dtype=np.bool_)
        if_new = np.zeros((count, genes), dtype=np.bool_)
        for k, move in enumerate(listed):
            for mask, options in ((always, move.always), (if_new, move.if_new)):
                for gene, option in options.items():
                    mask[k, gene], values[k, gene] = True, option
        compiled = {
            "values": values,
            "always": always,
            "if_new": if_new,
            "unit": np.array([move.unit for move in listed], dtype=np.int64),
            "depth_gene": np.array([move.depth_gene for move in listed], dtype=np.int64),
            "spare": np.array([move.spare for move in listed], dtype=np.bool_),
        }
        for name, value in compiled.items():
            object.__setattr__(self, name, value)

    @property
    def num_units(self) -> int:
        """Return ``U``."""
        return int(self.unit.max(initial=-1)) + 1

    def around(self, row: Rows) -> tuple[Rows, NDArray[np.int64]]:
        """Return the distinct archs one move away from the canonical ``row`` ``(G,)``.

        Returns:
            Canonical rows ``(n, G)`` without ``row``, and the number of each one's move ``(n,)``,
            ascending.
        """
        on = self.encoding.active(row[None])[0]
        rows = np.where(self.always | (self.if_new & ~on), self.values, row)
        deeper = rows[np.arange(len(rows)), self.depth_gene] > row[self.depth_gene]
        adds = (self.depth_gene >= 0) & deeper
        rows = self.encoding.canonical(rows)
        kept = np.nonzero((adds | ~self.spare) & np.any(rows != row, axis=1))[0]
        return rows[kept], kept


def combine(encoding: Encoding, row: Rows, moved: tuple[Rows, ...]) -> Rows:
    """Return ``row`` ``(G,)`` with several moves at once, ``(N, G)`` canonical.

    Args:
        encoding: The encoding.
        row: Where the moves start.
        moved: For each move made, the rows ``(N, G)`` that it alone gives; a later one wins.
    """
    result = np.broadcast_to(row, moved[0].shape)
    for rows in moved:
        result = np.where(rows != row, rows, result)
    return encoding.canonical(result)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    unit: int
    always: dict[int, int]
    if_new: dict[int, int]
    depth_gene: int = -1
    spare: bool = False


def _listed(encoding: Encoding) -> Iterator[_Move]:
    """Yield every move; one unit's moves follow each other."""
    for unit in range(int(encoding.unit.max(initial=-1)) + 1):
        columns = np.nonzero(encoding.unit == unit)[0].tolist()
        gene = encoding.genes[columns[0]]
        sizes = [len(encoding.genes[column].choices) for column in columns]
        if gene.axis == "depth":
            yield from _depth_moves(encoding, unit, columns[0])
        elif np.prod(sizes) <= _MAX_JOINT_OPTIONS:
            for options in itertools.product(*map(range, sizes)):
                yield _Move(unit=unit, always=dict(zip(columns, options, strict=True)), if_new={})
        else:
            for column, size in zip(columns, sizes, strict=True):
                for option in range(size):
                    yield _Move(unit=unit, always={column: option}, if_new={})


def _depth_moves(encoding: Encoding, unit: int, column: int) -> Iterator[_Move]:
    """Yield every depth of a stage, each with every joint option for the blocks it adds."""
    stage = encoding.genes[column].stage
    axes: dict[str, list[int]] = {}
    for g, gene in enumerate(encoding.genes):
        if gene.stage == stage and encoding.switch[g] == column:
            axes.setdefault(gene.axis, []).append(g)
    # Blocks of a traced stage may differ in their options; those with fewer take their largest.
    last = [len(gene.choices) - 1 for gene in encoding.genes]
    sizes = [1 + max(last[g] for g in columns) for columns in axes.values()]
    joint = list(itertools.product(*map(range, sizes)))
    if len(joint) > _MAX_JOINT_OPTIONS:
        joint = [tuple(0 for _ in sizes), tuple(size - 1 for size in sizes)]
    for depth in range(len(encoding.genes[column].choices)):
        for i, options in enumerate(joint):
            yield _Move(
                unit=unit,
                always={column: depth},
                if_new={
                    g: min(option, last[g])
                    for columns, option in zip(axes.values(), options, strict=True)
                    for g in columns
                },
                depth_gene=column,
                spare=i > 0,
            )
