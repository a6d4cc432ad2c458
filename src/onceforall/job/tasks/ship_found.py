"""From an answer of a search to a proven model, unless one that is shipped is as good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onceforall.arch import Arch
from onceforall.artifacts import Answer, Card, Confirmed
from onceforall.errors import ConfigError, InfeasibleError
from onceforall.job.context import Run
from onceforall.job.steps.confirm import best_keeping, confirm, measuring, noise_of
from onceforall.job.steps.latency import cost_table
from onceforall.job.steps.search import FoundFront, fronts_under_limits
from onceforall.job.steps.ship import Wanted, ship_models
from onceforall.measure.choice import choose
from onceforall.search.limits import limit_words

# Of a front under limits, so many are measured: the best as predicted may not be as measured.
_MOST_CANDIDATES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """A model that answers a search.

    Attributes:
        answer: What the search found.
        card: Card of the model to take.
        is_new: Whether it was shipped now; otherwise it was there, and nothing that was found is
            better beyond noise.
    """

    answer: Answer
    card: Card
    is_new: bool

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object: the answer, and the model."""
        return {**self.answer.to_json(), "new": self.is_new, "model": self.card.to_json()}

    @property
    def line(self) -> str:
        """Return in words which model it is."""
        if self.is_new:
            return f"shipped: {self.card.name}"
        return f"{self.card.name} is shipped already; nothing found is better beyond noise: take it"


def ship_found(
    run: Run,
    limits: Mapping[str, Sequence[float]],
    *,
    caution: float | None = None,
    devices: Mapping[str, Path] | None = None,
    seed: int | None = None,
) -> list[Shipped]:
    """Search a trained run and ship what it finds, for each limit: measured, proven, verified.

    The best predicted archs are measured on the validation images and timed. A new one is shipped
    if it beats the best shipped model under the limits by more than the noise of the validation
    images; otherwise that model is the answer. The same call ships nothing twice.

    Args:
        run: A run whose latency model and predictor are there.
        limits: Bounds by name, as
            :func:`~onceforall.job.steps.search.fronts_under_limits` takes them.
        caution: Standard deviations taken off predictions.
        devices: Latency models of further devices by name.
        seed: Seed of the search.

    Raises:
        ConfigError: If a limit is of no known cost.
        InfeasibleError: If a limit cannot be kept, as predicted or as measured.
        VerificationError: If a model cannot be proven.
    """
    found = fronts_under_limits(run, limits, caution=caution, devices=devices, seed=seed)
    return [_ship_one(run, each, devices or {}) for each in found]


def _ship_one(run: Run, found: FoundFront, devices: Mapping[str, Path]) -> Shipped:
    cards = run.folder.read_cards()
    own = {name: bound for name, bound in found.limits.items() if "@" not in name}
    winner = _winner(_keeping_elsewhere(run, cards, found.limits, devices), own)
    shipped = {card.arch for card in cards if card.finetuned_from is None}
    promising = sorted(found.front.points, key=lambda p: (-p.cautious_top1, p.latency_ms))
    # The first ones, shipped or not: the same call again looks at nothing else.
    new = [point for point in promising[:_MOST_CANDIDATES] if point.arch not in shipped]
    if winner is not None and promising[0].arch == winner.arch:
        new = []
    try:
        better = [p for p in _measured(run, new, own) if winner is None or _beats(p, winner)]
        card = _ship_first(run, better, own)
    except InfeasibleError:
        if winner is None:
            raise
        card = None
    if card is not None:
        return Shipped(answer=found.answer, card=card, is_new=True)
    if winner is not None:
        return Shipped(answer=found.answer, card=winner, is_new=False)
    raise InfeasibleError(f"{limit_words(found.limits)}: what was found is shipped, and breaks it")


def _winner(cards: Sequence[Card], limits: Mapping[str, float]) -> Card | None:
    try:
        return choose(cards, limits).card
    except (ConfigError, InfeasibleError):
        return None


def _keeping_elsewhere(
    run: Run, cards: Sequence[Card], limits: Mapping[str, float], devices: Mapping[str, Path]
) -> list[Card]:
    """Return the cards that keep the limits on further devices, as predicted."""
    elsewhere = {name: bound for name, bound in limits.items() if "@" in name}
    if not (elsewhere and cards):
        return list(cards)
    costs = cost_table(run, devices)
    rows = costs.encoding.from_archs([card.arch for card in cards])
    keeps = np.all([costs.cost(name)(rows) <= bound for name, bound in elsewhere.items()], axis=0)
    return [card for card, is_kept in zip(cards, keeps, strict=True) if is_kept]


def _measured(run: Run, points: Sequence[Any], limits: Mapping[str, float]) -> list[Confirmed]:
    if not points:
        return []
    return best_keeping(confirm(run, points, measuring(run)), limits)


def _beats(point: Confirmed, card: Card) -> bool:
    known = card.valid_top1 or 0.0
    return point.valid_top1 > known + noise_of(known, point.valid_images)


def _ship_first(run: Run, points: Sequence[Confirmed], limits: Mapping[str, float]) -> Card | None:
    """Ship the first point that keeps the latency limit as it ships; None of no points.

    Raises:
        InfeasibleError: If none does.
        VerificationError: If none is proven.
    """
    bound, problems = limits.get("latency_ms", math.inf), []
    for point in points:
        name = _free_name(run, point.arch, point.macs)
        unshipped = ship_models(
            run, [Wanted(name=name, arch=point.arch, believed=point)], max_latency_ms=bound
        )
        if not unshipped:
            return Card.read(run.folder.card(name))
        problems += [f"{each.name}: {each.problem}" for each in unshipped]
    if problems:
        raise InfeasibleError(f"nothing that was found ships: {'; '.join(problems)}")
    return None


def _free_name(run: Run, arch: Arch, macs: int) -> str:
    """Return a folder name that no model has: numbered like those of the run, but ``found``."""
    count = sum(1 for _ in run.folder.models.glob("found*/card.json")) + 1
    return f"found{count:02d}-{macs / 1e6:.3g}M-{arch.resolution}px"
