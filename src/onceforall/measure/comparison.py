"""Who beats whom beyond the noise of the test images, and whether the supernet was worth it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onceforall.artifacts import Baseline, Card
from onceforall.measure.proportion import Share, is_clearly_above

Record = Mapping[str, Any]
Verdict = Literal["better", "equal", "worse"]
# Trainings that differ by no more than this share took the same time.
_SAME_TIME = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A measured model.

    Attributes:
        name: Its name.
        top1: Accuracy on the test images.
        cost: Latency in milliseconds, or another cost; smaller is better.
    """

    name: str
    top1: Share
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A shipped model and the same architecture trained alone, from fresh weights.

    Attributes:
        name: Name of the model.
        model: Test top-1 of the shipped model.
        alone: Test top-1 of the network trained alone, on the same images.
        alone_s: Seconds that its training took.
    """

    name: str
    model: Share
    alone: Share
    alone_s: float

    @property
    def verdict(self) -> Verdict:
        """Say how the shipped model does against the other; equal means within the noise."""
        if is_clearly_above(self.model, self.alone):
            return "better"
        return "worse" if is_clearly_above(self.alone, self.model) else "equal"

    @property
    def words(self) -> str:
        """Return the difference in points of top-1 and what it means."""
        points = 100 * (self.model.value - self.alone.value)
        meaning = "within noise" if self.verdict == "equal" else self.verdict
        return f"{_points(points)}, {meaning}"


def beaten_by(contenders: Sequence[Contender]) -> dict[str, str]:
    """Return the models that are not in the front, each with the most accurate that beats it.

    A model is beaten by another that costs no more and is more accurate by more than the noise.
    """
    found = {}
    for loser in contenders:
        winners = [
            other
            for other in contenders
            if other.cost <= loser.cost and is_clearly_above(other.top1, loser.top1)
        ]
        if winners:
            found[loser.name] = max(winners, key=lambda w: (w.top1.value, -w.cost)).name
    return found


def worth_it(pairs: Sequence[Pair], *, num_models: int, supernet_s: float | None) -> list[str]:
    """Return in sentences whether the supernet was worth it.

    Args:
        pairs: Models whose architectures were trained alone.
        num_models: All models that the supernet gave.
        supernet_s: Seconds that the supernet's training took, if known.
    """
    if not pairs:
        return []
    groups: dict[Verdict, list[Pair]] = {"better": [], "equal": [], "worse": []}
    for pair in pairs:
        groups[pair.verdict].append(pair)
    better, equal, worse = (len(groups[verdict]) for verdict in ("better", "equal", "worse"))
    mean = sum(100 * (pair.model.value - pair.alone.value) for pair in pairs) / len(pairs)
    of = f"{len(pairs)} {'model' if len(pairs) == 1 else 'models'}"
    lines = [
        f"Better than the same architecture trained alone: {better} of {of}; "
        f"equal within noise: {equal}; worse: {worse}. "
        f"On average the difference is {_points(mean)} points of top-1.",
        _times(pairs, supernet_s),
    ]
    if groups["worse"]:
        shown = ", ".join(
            f"{pair.name} ({pair.alone.in_percent()} alone, {pair.model.in_percent()} shipped)"
            for pair in groups["worse"]
        )
        lines.append(f"A plain network trained alone serves better for {shown}.")
    if worse > better:
        lines.append(_plain_is_better(pairs, supernet_s))
    elif better and _had_less_time(pairs, num_models, supernet_s):
        lines.append("The networks alone had less than their share of the supernet's time.")
    elif better == worse == 0 and len(pairs) == num_models and _is_quicker(pairs, supernet_s):
        lines.append("Plain networks trained alone are as good here, in less time.")
    return lines


def _times(pairs: Sequence[Pair], supernet_s: float | None) -> str:
    together = "" if len(pairs) == 1 else " together"
    said = f"Training alone took {minutes(_seconds(pairs))}{together}"
    return f"{said}." if supernet_s is None else f"{said}, the supernet {minutes(supernet_s)}."


def _plain_is_better(pairs: Sequence[Pair], supernet_s: float | None) -> str:
    """Return the verdict on the whole, which depends on the time that either took."""
    said = "On the whole, plain networks trained alone serve better here"
    if supernet_s is None:
        return f"{said}."
    times = _seconds(pairs) / supernet_s
    if times <= 1 + _SAME_TIME:
        return f"{said}, in no more time."
    return f"{said}, but they took {times:.1f} times as long."


def _is_quicker(pairs: Sequence[Pair], supernet_s: float | None) -> bool:
    return supernet_s is not None and _seconds(pairs) < (1 - _SAME_TIME) * supernet_s


def _had_less_time(pairs: Sequence[Pair], num_models: int, supernet_s: float | None) -> bool:
    """Say whether networks alone had less time than an equal share of the supernet's."""
    return _is_quicker(pairs, None if supernet_s is None else supernet_s * len(pairs) / num_models)


def _seconds(pairs: Sequence[Pair]) -> float:
    return sum(pair.alone_s for pair in pairs)


def top1_share(measured: Card | Baseline) -> Share | None:
    """Return the test top-1 with the images that it was counted on, if that is known."""
    return None if measured.images is None else Share(value=measured.top1, count=measured.images)


def top1_in_percent(card: Card) -> str:
    """Return the test top-1 with its noise, or alone where a card does not tell the images."""
    share = top1_share(card)
    return f"{card.top1 * 100:.1f} %" if share is None else share.in_percent()


def pair_of(card: Card, alone: Baseline | None) -> Pair | None:
    """Return a model beside its architecture trained alone; None if that is not known of it."""
    model = top1_share(card)
    if alone is None or alone.arch != card.arch or model is None:
        return None
    other = Share(value=alone.top1, count=alone.images)
    return Pair(name=card.name, model=model, alone=other, alone_s=alone.seconds)


def contenders(cards: Iterable[Card], cost: str = "latency_ms") -> list[Contender]:
    """Return the models whose top-1 was counted, with one of their costs, to see who beats whom."""
    return [
        Contender(name=card.name, top1=share, cost=getattr(card, cost))
        for card in cards
        if (share := top1_share(card)) is not None
    ]


def supernet_seconds(events: Iterable[Record]) -> float | None:
    """Return the seconds that training the supernet took, or None if events do not tell.

    The step's own seconds count probes but not what was done before an interruption, the last
    epoch's the other way round; the larger one is returned.
    """
    step_s, epochs_s = 0.0, 0.0
    for event in events:
        seconds = event.get("seconds")
        if not isinstance(seconds, int | float):
            continue
        if event.get("event") == "step_done" and event.get("step") == "train":
            step_s += seconds
        elif event.get("event") == "epoch":
            epochs_s = seconds
    return max(step_s, epochs_s) or None


def _points(points: float) -> str:
    """Return points of top-1 with a sign, a tenth being the finest; zero has none."""
    written = f"{points:+.1f}"
    return "0.0" if float(written) == 0 else written


def minutes(seconds: float) -> str:
    """Return a duration for people, e.g. ``40 s``, ``7.2 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
