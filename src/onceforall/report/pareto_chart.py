"""The main chart: accuracy over latency, MACs or parameters.

There is one chart for each cost that is known; radio buttons in front of them choose the one to
show, in plain CSS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from onceforall.measure.choice import choose
from onceforall.measure.comparison import beaten_by, contenders
from onceforall.pareto import pareto_front
from onceforall.report import numbers
from onceforall.report.labels import Label, place_labels
from onceforall.report.plot import Axes, Point
from onceforall.report.records import COSTS, Model, Subnet
from onceforall.report.run_folder import Run
from onceforall.report.scales import fit_scale

_MAX_LABELS = 10
_TITLES = {"latency_ms": "Latency", "macs": "MACs", "params": "Parameters"}
_MAGNITUDES = ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"))

# Both ends of a straight line, in percents.
Bar = tuple[Point, Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A model on a chart, all places in percents.

    Attributes:
        style: Classes.
        label: What it is, in words.
        place: Where it is.
        name: Its name and where that goes, if there is room.
        spread: From one MAD below the median latency to its 90th percentile.
        interval: The 95 % interval of its accuracy.
    """

    style: str
    label: str
    place: Point
    name: Label | None
    spread: Bar | None
    interval: Bar | None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The chart of one cost.

    Attributes:
        cost: Key of the cost.
        factor: The axis shows the cost times this.
        axes: The axes; the vertical one is top-1 in percent.
        models: Shipped models.
        samples: Evaluated subnets inside the plot.
        found: Points of the search inside the plot.
        front: Those that are best in predicted accuracy and this cost, ascending.
        hidden: Evaluated subnets below the plot.
    """

    cost: str
    factor: float
    axes: Axes
    models: Sequence[Model]
    samples: Sequence[Subnet]
    found: Sequence[Subnet]
    front: Sequence[Subnet]
    hidden: int

    @property
    def title(self) -> str:
        """Return what the cost is called."""
        return _TITLES[self.cost]

    @property
    def label(self) -> str:
        """Return what a reader who cannot see the chart should know."""
        models = numbers.plural(len(self.models), "model")
        return (
            f"{models}: top-1 accuracy over {self.title.lower()}. "
            "The table below holds the same figures."
        )

    @property
    def sample_dots(self) -> str:
        """Return the path of the evaluated subnets."""
        return self.axes.dots(self.point(s, s.top1) for s in self.samples)

    @property
    def found_dots(self) -> str:
        """Return the path of what the search found."""
        return self.axes.dots(self.point(p, p.predicted_top1) for p in self.found)

    @property
    def front_line(self) -> str:
        """Return the path of the predicted front; empty for less than two points."""
        points = [self.point(p, p.predicted_top1) for p in self.front]
        return self.axes.line(points) if len(points) > 1 else ""

    @property
    def band(self) -> str:
        """Return the area of one standard deviation around the front; empty where unknown."""
        known = [
            (self.point(p, p.predicted_top1), 100 * p.predicted_std)
            for p in self.front
            if p.predicted_std is not None
        ]
        if len(known) < 2:
            return ""
        low = [(x, y - std) for (x, y), std in known]
        high = [(x, y + std) for (x, y), std in known]
        return self.axes.area(low, high)

    @property
    def alone(self) -> list[Point]:
        """Return the point of each architecture trained alone, inside the plot or not."""
        pairs = ((model.subnet, model.pair) for model in self.models)
        return [self.point(subnet, pair.alone.value) for subnet, pair in pairs if pair is not None]

    @property
    def rings(self) -> list[Point]:
        """Return the place of each architecture trained alone that is inside the plot."""
        return [self.axes.place(point) for point in self.alone if self.axes.y.contains(point[1])]

    @property
    def beaten(self) -> dict[str, str]:
        """Return the models that another one of no more cost beats beyond the noise."""
        return beaten_by(contenders((model.card for model in self.models), self.cost))

    @property
    def marks(self) -> list[Mark]:
        """Return the models as they are drawn."""
        beaten = self.beaten
        return [
            _mark(self, model, name, is_beaten=model.card.name in beaten)
            for model, name in zip(self.models, _names(self), strict=True)
        ]

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Return, for limits of what each model costs, that model and the one to take, by number.

        Limits ascend; models whose validation top-1 is unknown are no choice.
        """
        cards = [model.card for model in self.models]
        known = [card for card in cards if card.valid_top1 is not None]
        limits = {getattr(card, self.cost): card for card in known}
        return [
            (cards.index(card), cards.index(choose(cards, {self.cost: limit}).card))
            for limit, card in sorted(limits.items(), key=lambda pair: pair[0])
        ]

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Return the style of the key and the words of each entry."""
        return _legend(self)

    def point(self, subnet: Subnet, top1: float | None) -> Point:
        """Return where a subnet is, in the units of the axes."""
        return subnet.costs[self.cost] * self.factor, 100 * (top1 or 0.0)

    def bar(self, start: Point, end: Point) -> Bar:
        """Return a bar between two points, its ends held inside the plot."""
        low, high = self.axes.held(start), self.axes.held(end)
        return self.axes.place(low), self.axes.place(high)


def pareto_views(run: Run) -> list[View]:
    """Return the chart of each cost that something is known of."""
    views = (_view(run, cost) for cost in COSTS)
    return [view for view in views if view is not None]


def chart_points(run: Run) -> dict[str, Any]:
    """Return what the script needs to say which dot is under the pointer.

    Each point is ``[name, top-1 as a fraction, costs...]`` with the costs in the order of
    ``costs``; None where unknown.
    """

    def row(subnet: Subnet, top1: float | None) -> list[Any]:
        figures = (subnet.costs.get(cost) for cost in COSTS)
        accuracy = None if top1 is None else round(top1, 4)
        return [subnet.label, accuracy, *map(_three_digits, figures)]

    return {
        "costs": COSTS,
        "samples": [row(s, s.top1) for s in run.samples],
        "front": [row(s, s.predicted_top1) for s in run.front],
    }


def _three_digits(value: float | None) -> float | None:
    """Round to what a tooltip shows; a whole number has no point in JSON."""
    if value is None:
        return None
    rounded = float(f"{value:.3g}")
    return int(rounded) if rounded.is_integer() else rounded


def _view(run: Run, cost: str) -> View | None:
    """Choose the points and fit the axes for one cost."""
    found = [p for p in run.front if cost in p.costs]
    front = _best(found, cost)
    samples = [s for s in run.samples if cost in s.costs]
    if not run.models and not front and not samples:
        return None
    main = [m.card.top1 for m in run.models] + [p.predicted_top1 or 0.0 for p in front]
    measured = sorted(s.top1 or 0.0 for s in samples)
    # The worst samples would press everything of interest against the top.
    kept = measured[len(measured) // 10 :] if main else measured
    values = [s.costs[cost] for s in (*(m.subnet for m in run.models), *found, *samples)]
    factor, unit = _unit(cost, max(values))
    axes = Axes(
        x=fit_scale((v * factor for v in values), may_be_log=True, limits=(0.0, float("inf"))),
        y=fit_scale((100 * v for v in main + kept), limits=(0.0, 100.0)),
        x_title=f"{_TITLES[cost]} ({unit})",
        y_title="Top-1 accuracy (%)",
    )
    inside = [s for s in samples if axes.y.contains(100 * (s.top1 or 0.0))]
    return View(
        cost=cost,
        factor=factor,
        axes=axes,
        models=run.models,
        samples=inside,
        found=[p for p in found if axes.y.contains(100 * (p.predicted_top1 or 0.0))],
        front=front,
        hidden=len(samples) - len(inside),
    )


def _best(points: Sequence[Subnet], cost: str) -> list[Subnet]:
    """Return the points that are best in predicted accuracy and this cost, ascending.

    A search with three objectives finds points that two of them cannot tell apart from bad ones.
    """
    if not points:
        return []
    values = np.array([(p.costs[cost], -(p.predicted_top1 or 0.0)) for p in points])
    mask = pareto_front(values, keep_duplicates=False)
    best = [p for p, on_front in zip(points, mask, strict=True) if on_front]
    return sorted(best, key=lambda p: p.costs[cost])


def _unit(cost: str, largest: float) -> tuple[float, str]:
    """Return the factor and the unit that give an axis numbers of few digits."""
    if cost == "latency_ms":
        return 1.0, "ms"
    for size, name in _MAGNITUDES:
        if largest >= size:
            return 1 / size, name
    return 1.0, "number"


def _names(view: View) -> Sequence[Label | None]:
    """Return where the names of the models go, off the predicted line where they can."""
    if len(view.models) > _MAX_LABELS:
        return [None] * len(view.models)
    places = [view.axes.place(view.point(m.subnet, m.card.top1)) for m in view.models]
    ends = [view.axes.place(view.point(p, p.predicted_top1)) for p in view.front]
    along = [
        (x1 + (x2 - x1) * i / 8, y1 + (y2 - y1) * i / 8)
        for (x1, y1), (x2, y2) in pairwise(ends)
        for i in range(9)
    ]
    return place_labels([m.card.name for m in view.models], places, obstacles=along)


def _mark(view: View, model: Model, name: Label | None, *, is_beaten: bool) -> Mark:
    card = model.card
    x, y = view.point(model.subnet, card.top1)
    spread, interval = None, None
    if view.cost == "latency_ms":
        high = max(x + card.latency_mad_ms, card.latency_p90_ms)
        spread = view.bar((x - card.latency_mad_ms, y), (high, y))
    if model.share is not None:
        low_top1, high_top1 = model.share.interval
        interval = view.bar((x, 100 * low_top1), (x, 100 * high_top1))
    cost = _cost_words(view.cost, model.subnet.costs[view.cost])
    return Mark(
        style="mark" + ("" if model.verified else " unverified") + (" beaten" if is_beaten else ""),
        label=f"{card.name}: {model.top1} top-1, {cost}",
        place=view.axes.place((x, y)),
        name=name,
        spread=spread,
        interval=interval,
    )


def _legend(view: View) -> list[tuple[str, str]]:
    entries: list[tuple[str, str]] = []
    if view.models:
        spread = "; bar: median \u2212 MAD to 90th percentile" if view.cost == "latency_ms" else ""
        entries.append(("measured", f"measured model (test images){spread}"))
    if view.beaten:
        words = "not in the front: another model costs no more and is more accurate beyond noise"
        entries.append(("beaten", words))
    if view.alone:
        outside = len(view.alone) - len(view.rings)
        note = f", {outside} outside the axis" if outside else ""
        entries.append(("alone", f"the same architecture trained alone{note}"))
    if view.front:
        std = any(p.predicted_std is not None for p in view.front)
        band = " and one standard deviation" if std else ""
        entries.append(("front", f"predicted front{band} (validation images)"))
    if view.samples:
        below = f", {view.hidden:,} more below the axis" if view.hidden else ""
        evaluated = numbers.plural(len(view.samples), "evaluated subnet")
        entries.append(("evaluated", f"{evaluated} (validation images){below}"))
    return entries


def _cost_words(cost: str, value: float) -> str:
    if cost == "latency_ms":
        return numbers.milliseconds(value)
    return f"{numbers.count(value)} {_TITLES[cost] if cost == 'macs' else 'parameters'}"
