"""The table that a run ends with, and what it is worth beside networks trained alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence, Set

from onceforall.artifacts import Baseline, Card
from onceforall.job.folder import RunFolder
from onceforall.measure.comparison import (
    Pair,
    beaten_by,
    contenders,
    pair_of,
    supernet_seconds,
    top1_in_percent,
    worth_it,
)


def read_pairs(folder: RunFolder, cards: Sequence[Card]) -> dict[str, Pair]:
    """Return the models whose architectures were trained alone, by name."""
    paths = {card.name: folder.baseline(card.name) for card in cards}
    alone = {name: Baseline.read(path) for name, path in paths.items() if path.is_file()}
    pairs = {card.name: pair_of(card, alone.get(card.name)) for card in cards}
    return {name: pair for name, pair in pairs.items() if pair is not None}


def result_lines(folder: RunFolder, cards: Sequence[Card]) -> list[str]:
    """Return the table of a run's models and, where it is known, whether the supernet was worth it.

    Args:
        folder: Folder of the run.
        cards: Cards of its models; the table has the fastest first, as the report has.
    """
    pairs = read_pairs(folder, cards)
    lines = model_table(sorted(cards, key=lambda card: (card.latency_ms, card.macs)), pairs)
    if pairs:
        supernet_s = supernet_seconds(folder.read_events())
        found = list(pairs.values())
        lines += ["", *worth_it(found, num_models=len(cards), supernet_s=supernet_s)]
    return lines


def model_table(cards: Sequence[Card], pairs: Mapping[str, Pair] | None = None) -> list[str]:
    """Return the lines of a table of models.

    Top-1 stands with half the width of its 95 % interval. A model that another one beats beyond
    that noise and is no slower than is marked.

    Args:
        cards: Cards of the models, in the order of the rows.
        pairs: The same architectures trained alone, by name of the model.
    """
    columns = [*_known_columns(cards), *_alone_columns(cards, pairs or {}), *_beaten(cards)]
    return lines_of_columns(columns, left={"model", "arch", "beaten by"})


def lines_of_columns(columns: Sequence[Sequence[str]], *, left: Set[str]) -> list[str]:
    """Return the lines of a table with a rule below its headings.

    Args:
        columns: Columns of one length, each with its heading first.
        left: Headings of the columns that begin at the left; others end at the right.
    """
    rows = list(zip(*columns, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(
            cell.ljust(width) if column[0] in left else cell.rjust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in rows
    ]
    rule = "  ".join("-" * width for width in widths)
    return [*itertools.chain(lines[:1], [rule], lines[1:])]


def _known_columns(cards: Sequence[Card]) -> list[list[str]]:
    """Return the columns that every table has, each with its heading."""
    return [
        ["model", *(card.name for card in cards)],
        ["arch", *(str(card.arch) for card in cards)],
        ["MACs", *(f"{card.macs / 1e6:.3g} M" for card in cards)],
        ["params", *(f"{card.params / 1e3:.1f} k" for card in cards)],
        ["latency ms", *(f"{card.latency_ms:.3f} +- {card.latency_mad_ms:.3f}" for card in cards)],
        ["test top-1", *map(top1_in_percent, cards)],
    ]


def _alone_columns(cards: Sequence[Card], pairs: Mapping[str, Pair]) -> list[list[str]]:
    """Return top-1 trained alone and the difference to it, if that is known of any model."""
    found = [pairs.get(card.name) for card in cards]
    if not any(found):
        return []
    return [
        ["trained alone", *("" if pair is None else pair.alone.in_percent() for pair in found)],
        ["difference", *("" if pair is None else pair.words for pair in found)],
    ]


def _beaten(cards: Sequence[Card]) -> list[list[str]]:
    """Return which model keeps each one out of the front, if there is any."""
    beaten = beaten_by(contenders(cards))
    return [["beaten by", *(beaten.get(card.name, "") for card in cards)]] if beaten else []
