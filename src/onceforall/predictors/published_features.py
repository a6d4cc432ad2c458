"""Feature layouts: which entry of a feature vector each choice of an arch sets to 1.

The published accuracy predictors read such vectors. A layout is compiled once for an encoding; it
turns populations into features, and it lets a predictor replace its first matrix product by sums
of gathered rows.

Shape legend: ``N`` archs, ``G`` genes, ``O`` options of the gene that has most, ``F`` features,
``R`` rigid choices, ``H`` outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from onceforall.arch import PUBLISHED_WIDTH_MULTS
from onceforall.encoding import Encoding, Features, Rows, switch_of
from onceforall.errors import ArchError
from onceforall.genes import Axis, Gene

# Rows of one gathered table: small enough that all of them stay in a core's cache.
_MAX_TABLE_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureLayout:
    """Where each choice puts its 1 in a feature vector.

    Attributes:
        encoding: Encoding of the rows.
        positions: Feature index of every option of every gene, -1 for none, ``(G, O)`` int64.
        fixed: Feature indices of rigid choices, each with the depth gene and its smallest option
            index for which the choice counts (-1, 0 for always), ``(R, 3)`` int64.
        num_features: ``F``.
    """

    encoding: Encoding
    positions: NDArray[np.int64]
    fixed: NDArray[np.int64]
    num_features: int

    def features(self, rows: Rows) -> Features:
        """Return features ``(N, F)`` in {0, 1}; choices of blocks that do not run are all 0."""
        # Choices without a feature, and those that do not count, write to a column cut off below.
        result = np.zeros((len(rows), self.num_features + 1), dtype=np.float32)
        places = self.positions.ravel()[rows + self._row_starts]
        places[~self.encoding.active(rows) | (places < 0)] = self.num_features
        places += np.arange(0, result.size, self.num_features + 1)[:, None]
        result.ravel()[places] = 1
        for place, switch, threshold in self.fixed.tolist():
            result[:, place] = 1 if switch < 0 else rows[:, switch] >= threshold
        return result[:, :-1]

    def linear(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> GatheredLinear:
        """Return ``features(rows) @ weight + bias``, compiled to sums of gathered rows.

        Args:
            weight: ``(F, H)``.
            bias: ``(H,)``.
        """
        encoding = self.encoding
        groups = self._groups()
        strides = np.zeros((len(groups), encoding.num_genes), dtype=np.float32)
        tables: list[Features] = []
        for s, (columns, places) in enumerate(groups):
            sizes = encoding.num_options[list(columns)].tolist()
            rows = np.zeros((math.prod(sizes), encoding.num_genes), dtype=np.uint8)
            for i, column in enumerate(columns):
                strides[s, column] = math.prod(sizes[i + 1 :])
                rows[:, column] = np.arange(len(rows)) // math.prod(sizes[i + 1 :]) % sizes[i]
            tables.append(self.features(rows)[:, places] @ weight[places])
        tables[0] += bias
        starts = np.cumsum([0, *map(len, tables[:-1])])
        return GatheredLinear(strides=strides, starts=starts[:, None], table=np.concatenate(tables))

    def _groups(self) -> list[tuple[tuple[int, ...], list[int]]]:
        """Return columns and the features that they decide, for tables of bounded size."""
        encoding = self.encoding
        block_order = sorted(
            range(encoding.num_genes),
            key=lambda g: (encoding.genes[g].stage, encoding.genes[g].block),
        )
        decided = [
            (
                {g, int(encoding.switch[g])} - {-1},
                self.positions[g][self.positions[g] >= 0].tolist(),
            )
            for g in block_order
        ]
        decided += [({switch} - {-1}, [place]) for place, switch, _ in self.fixed.tolist()]
        groups: list[tuple[tuple[int, ...], list[int]]] = []
        for needed, places in decided:
            columns = set(groups[-1][0]) | needed if groups else needed
            size = math.prod(encoding.num_options[sorted(columns)].tolist())
            if groups and size <= _MAX_TABLE_ROWS:
                groups[-1] = (tuple(sorted(columns)), groups[-1][1] + places)
            else:
                groups.append((tuple(sorted(needed)), places))
        return groups or [((), [])]

    @property
    def _row_starts(self) -> NDArray[np.int64]:
        return np.arange(0, self.positions.size, self.positions.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GatheredLinear:
    """A linear map of features, computed without them; made by ``FeatureLayout.linear``.

    Attributes:
        strides: Weight of each gene in the table index of each of ``S`` groups, ``(S, G)``.
        starts: First table row of each group, ``(S, 1)``.
        table: What each choice of a group's genes adds, ``(E, H)``.
    """

    strides: NDArray[np.float32]
    starts: NDArray[np.int64]
    table: Features

    def __call__(self, rows: Rows) -> Features:
        """Return the map's outputs ``(N, H)``."""
        index = (self.strides @ rows.T.astype(np.float32)).astype(np.int64) + self.starts
        result: Features = self.table.take(index[0], axis=0)
        for group in index[1:]:
            result += self.table.take(group, axis=0)
        return result


@lru_cache(maxsize=16)
def published_mobilenet_layout(
    encoding: Encoding, image_sizes: tuple[int, ...], *, sizes_last: bool = False
) -> FeatureLayout:
    """Return the published layout for MobileNetV3 and ProxylessNAS spaces.

    Image size, then the kernel size of every physical block, then every expand ratio, each
    one-hot; with ``sizes_last`` the image size comes at the end (the tutorial's 128 features).

    Args:
        encoding: Encoding whose resolutions are all among ``image_sizes``.
        image_sizes: Image sizes that have a feature, ascending.
        sizes_last: Whether the image size follows the blocks.

    Raises:
        ArchError: If a choice of the space has no feature.
    """
    sizes = [Gene(axis="resolution", stage=-1, block=-1, choices=image_sizes)]
    axes: tuple[tuple[Axis, tuple[int, ...]], ...] = (
        ("kernel_size", (3, 5, 7)),
        ("expand_ratio", (3, 4, 6)),
    )
    blocks = [
        Gene(axis=axis, stage=i, block=block, choices=choices)
        for axis, choices in axes
        for i, stage in enumerate(encoding.space.stages)
        for block in range(stage.num_blocks)
    ]
    return _layout(encoding, blocks + sizes if sizes_last else sizes + blocks)


@lru_cache(maxsize=16)
def published_resnet_layout(encoding: Encoding, image_sizes: tuple[int, ...]) -> FeatureLayout:
    """Return the published layout for the ResNet50D space.

    Image size, stem switch, six widths, 18 expand ratios, each one-hot: 82 features with the
    eight image sizes of the published predictor.

    Raises:
        ArchError: If a choice of the space has no feature.
    """
    stages = encoding.space.stages
    blocks = [
        Gene(axis="resolution", stage=-1, block=-1, choices=image_sizes),
        Gene(axis="stem_depth", stage=-1, block=-1, choices=(0, 1)),
    ]
    blocks += [
        Gene(axis="width_mult", stage=site, block=-1, choices=PUBLISHED_WIDTH_MULTS)
        for site in range(len(stages) + 2)
    ]
    blocks += [
        Gene(axis="expand_ratio", stage=i, block=block, choices=(0.2, 0.25, 0.35))
        for i, stage in enumerate(stages)
        for block in range(stage.num_blocks)
    ]
    return _layout(encoding, blocks)


def _layout(encoding: Encoding, features: Sequence[Gene]) -> FeatureLayout:
    """Return the layout that lists the given choices one after the other."""
    if encoding.space.is_uniform:
        raise ArchError("published features tell every block's choice; a uniform space has one")
    most = int(encoding.num_options.max(initial=1))
    positions = np.full((encoding.num_genes, most), -1, dtype=np.int64)
    fixed, start = [], 0
    for feature in features:
        column = encoding.gene_index(feature.axis, feature.stage, feature.block)
        choices = encoding.options((feature.axis, feature.stage, feature.block))
        lookup = {choice: start + i for i, choice in enumerate(feature.choices)}
        places = [_position(lookup, choice, feature) for choice in choices]
        start += len(feature.choices)
        if column is not None:
            positions[column, : len(places)] = places
        elif feature.block < 0 or feature.block < encoding.space.stages[feature.stage].depths[-1]:
            fixed.append((places[0], *switch_of(encoding.space, feature, encoding.index)))
    return FeatureLayout(
        encoding=encoding,
        positions=positions,
        fixed=np.array(fixed, dtype=np.int64).reshape(-1, 3),
        num_features=start,
    )


def _position(lookup: dict[int | float, int], choice: int | float, feature: Gene) -> int:
    if choice not in lookup:
        raise ArchError(
            f"{feature.axis} {choice} has no feature in this layout; {feature.choices} have"
        )
    return lookup[choice]
