"""Which of some shipped models to take: the best that keeps limits, and what looser ones gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onceforall.artifacts import Card
from onceforall.errors import ConfigError, InfeasibleError
from onceforall.measure.comparison import top1_share
from onceforall.measure.cost_tables import COSTS
from onceforall.measure.proportion import is_clearly_above
from onceforall.pareto import pareto_front


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """A model that looser limits would allow, better on the validation images.

    Attributes:
        card: Its card.
        limits: The limits that it breaks, each with what it takes.
        points: Its test top-1 less that of the chosen model, in points.
        is_clear: Whether that is more than the noise of the test images.
    """

    card: Card
    limits: Mapping[str, float]
    points: float
    is_clear: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The model to take under limits.

    Attributes:
        limits: Upper bounds by name.
        card: Card of the model.
        gains: Better models that looser limits would allow, from the cheapest to the best.
        left_out: Names of models whose validation accuracy is not known.
    """

    limits: Mapping[str, float]
    card: Card
    gains: tuple[Gain, ...]
    left_out: tuple[str, ...]


def choose(cards: Sequence[Card], limits: Mapping[str, float]) -> Choice:
    """Return the model of the best validation top-1 that keeps every limit.

    Test images say how good it is, and chose nothing: the most accurate of several on them would
    be the luckiest, and its figure too high.

    Args:
        cards: Cards of shipped models.
        limits: Upper bounds of ``COSTS``, by name.

    Raises:
        ConfigError: If a limit is of none of them, or there is no model whose validation top-1 is
            known.
        InfeasibleError: If no such model keeps the limits.
    """
    if unknown := [name for name in limits if name not in COSTS]:
        raise ConfigError(f"limit {unknown[0]!r} is not one of {', '.join(COSTS)}")
    known = [card for card in cards if card.valid_top1 is not None]
    if not known:
        raise ConfigError(f"none of {len(cards)} models has a top-1 on validation images to go by")
    keeping = [card for card in known if not _broken(card, limits)]
    if not keeping:
        raise InfeasibleError(_none_keeps(known, limits))
    best = max(keeping, key=lambda card: (_valid(card), -card.latency_ms, -card.macs))
    return Choice(
        limits=dict(limits),
        card=best,
        gains=_gains(best, known, limits),
        left_out=tuple(card.name for card in cards if card.valid_top1 is None),
    )


def _gains(best: Card, cards: Sequence[Card], limits: Mapping[str, float]) -> tuple[Gain, ...]:
    """Return the better models of which no other takes less and is as good."""
    better = [card for card in cards if _valid(card) > _valid(best)]
    if not better:
        return ()
    taken = [[max(getattr(card, name), limits[name]) for name in limits] for card in better]
    error = [[-_valid(card)] for card in better]
    front = pareto_front(np.hstack([taken, error]), keep_duplicates=False)
    found = [card for card, is_best in zip(better, front, strict=True) if is_best]
    return tuple(
        Gain(
            card=card,
            limits=_broken(card, limits),
            points=100 * (card.top1 - best.top1),
            is_clear=is_clearly_better(card, best),
        )
        for card in sorted(found, key=_valid)
    )


def is_clearly_better(first: Card, second: Card) -> bool:
    """Return whether the first has more test top-1 than the second, beyond noise."""
    one, other = top1_share(first), top1_share(second)
    return one is not None and other is not None and is_clearly_above(one, other)


def _broken(card: Card, limits: Mapping[str, float]) -> dict[str, float]:
    return {name: getattr(card, name) for name in limits if getattr(card, name) > limits[name]}


def _none_keeps(cards: Sequence[Card], limits: Mapping[str, float]) -> str:
    """Say which limit is too tight; if each can be kept, that all together are."""
    for name, bound in limits.items():
        least = min(cards, key=lambda card: getattr(card, name))
        if getattr(least, name) > bound:
            return (
                f"{name}={bound:g}: no shipped model keeps it; the smallest is "
                f"{getattr(least, name):.4g}, of {least.name}"
            )
    together = ", ".join(f"{name}={bound:g}" for name, bound in limits.items())
    return f"no shipped model keeps {together} together, though each can be kept"


def _valid(card: Card) -> float:
    return card.valid_top1 or 0.0
