"""The main chart: accuracy over latency, MACs or parameters.

There is one chart for each cost that is known; radio buttons in front of them choose the one to
show, in plain CSS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from onceforall.measure.comparison import beaten_by
from onceforall.pareto import pareto_front
from onceforall.report import numbers
from onceforall.report.labels import Label, place_labels
from onceforall.report.markup import Markup, element, join
from onceforall.report.model_panel import top1_words
from onceforall.report.plot import (
    Axes,
    Point,
    band,
    chart,
    circle,
    dots,
    legend,
    line,
    short,
    stretched,
    words,
)
from onceforall.report.records import Model, Subnet, contenders, number
from onceforall.report.run_folder import Run
from onceforall.report.scales import fit_scale

_MAX_LABELS = 10
_TITLES = {"latency_ms": "Latency", "macs": "MACs", "params": "Parameters"}
_MAGNITUDES = ((1e9, "billion"), (1e6, "million"), (1e3, "thousand"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """One cost on the horizontal axis.

    Attributes:
        cost: Key of the cost.
        factor: The axis shows the cost times this.
        axes: The axes; the vertical one is top-1 in percent.
        models: Index and model of each that has the cost.
        samples: Evaluated subnets inside the plot.
        found: Points of the search inside the plot.
        front: Those that are best in predicted accuracy and this cost, ascending.
        hidden: Evaluated subnets below the plot.
    """

    cost: str
    factor: float
    axes: Axes
    models: tuple[tuple[int, Model], ...]
    samples: tuple[Subnet, ...]
    found: tuple[Subnet, ...]
    front: tuple[Subnet, ...]
    hidden: int

    def point(self, subnet: Subnet, top1: float | None) -> Point:
        """Return the place of a subnet in the units of the axes."""
        return subnet.costs[self.cost] * self.factor, 100 * (top1 or 0.0)


def pareto_section(run: Run, selected: int | None) -> Markup | None:
    """Return the switchable charts, or None where there is nothing to draw.

    Args:
        run: The run.
        selected: Index of the model that is selected at first.
    """
    views = [view for cost in _TITLES if (view := _view(run, cost)) is not None]
    if not views:
        return None
    switches, panels = [], []
    for position, view in enumerate(views):
        name = f"x-{view.cost}"
        kind = {"class": "axis-radio", "type": "radio", "name": "x-axis", "id": name}
        switches.append(element("input", {**kind, "checked": position == 0}))
        panels.append(
            element("div", {"class": "axis-panel", "data-cost": view.cost}, _chart(view, selected))
        )
    choices = (element("label", {"for": f"x-{view.cost}"}, _TITLES[view.cost]) for view in views)
    switcher = element("div", {"class": "axis-labels"}, element("span", None, "Cost"), *choices)
    return element("div", {"class": "pareto"}, *switches, switcher, *panels)


def chart_points(run: Run) -> dict[str, Any]:
    """Return what the script needs to say which dot is under the pointer.

    Each point is ``[name, top-1 as a fraction, costs...]`` with the costs in the order of
    ``costs``; None where unknown.
    """
    costs = tuple(_TITLES)

    def row(subnet: Subnet, top1: float | None) -> list[Any]:
        figures = (subnet.costs.get(cost) for cost in costs)
        return [
            subnet.label,
            None if top1 is None else round(top1, 4),
            *map(_three_digits, figures),
        ]

    return {
        "costs": costs,
        "samples": [row(s, s.top1) for s in run.samples if s.costs],
        "front": [row(s, s.predicted_top1) for s in run.front if s.costs],
    }


def _three_digits(value: float | None) -> float | None:
    """Round to what a tooltip shows; a whole number has no point in JSON."""
    if value is None:
        return None
    rounded = float(f"{value:.3g}")
    return int(rounded) if rounded.is_integer() else rounded


def _view(run: Run, cost: str) -> _View | None:
    """Choose the points and fit the axes for one cost."""
    models = tuple(
        (index, model)
        for index, model in enumerate(run.models)
        if cost in model.subnet.costs and model.subnet.top1 is not None
    )
    found = [p for p in run.front if cost in p.costs and p.predicted_top1 is not None]
    front = _best(found, cost)
    samples = tuple(s for s in run.samples if cost in s.costs and s.top1 is not None)
    if not models and not front and not samples:
        return None
    main = [m.subnet.top1 or 0.0 for _, m in models] + [p.predicted_top1 or 0.0 for p in front]
    measured = sorted(s.top1 or 0.0 for s in samples)
    # The worst samples would press everything of interest against the top.
    kept = measured[len(measured) // 10 :] if main else measured
    values = [s.costs[cost] for s in (*(m.subnet for _, m in models), *found, *samples)]
    factor, unit = _unit(cost, max(values))
    axes = Axes(
        x=fit_scale((v * factor for v in values), may_be_log=True, limits=(0.0, float("inf"))),
        y=fit_scale((100 * v for v in main + kept), limits=(0.0, 100.0)),
        x_title=f"{_TITLES[cost]} ({unit})",
        y_title="Top-1 accuracy (%)",
    )
    shown = tuple(s for s in samples if axes.y.contains(100 * (s.top1 or 0.0)))
    return _View(
        cost=cost,
        factor=factor,
        axes=axes,
        models=models,
        samples=shown,
        found=tuple(p for p in found if axes.y.contains(100 * (p.predicted_top1 or 0.0))),
        front=front,
        hidden=len(samples) - len(shown),
    )


def _best(points: Sequence[Subnet], cost: str) -> tuple[Subnet, ...]:
    """Return the points that are best in predicted accuracy and this cost, ascending.

    A search with three objectives finds points that two of them cannot tell apart from bad ones.
    """
    if not points:
        return ()
    values = np.array([(p.costs[cost], -(p.predicted_top1 or 0.0)) for p in points])
    mask = pareto_front(values, keep_duplicates=False)
    best = [p for p, on_front in zip(points, mask, strict=True) if on_front]
    return tuple(sorted(best, key=lambda p: p.costs[cost]))


def _unit(cost: str, largest: float) -> tuple[float, str]:
    """Return the factor and the unit that give an axis numbers of few digits."""
    if cost == "latency_ms":
        return 1.0, "ms"
    for size, name in _MAGNITUDES:
        if largest >= size:
            return 1 / size, name
    return 1.0, "number"


def _chart(view: _View, selected: int | None) -> Markup:
    title = _TITLES[view.cost]
    label = (
        f"{numbers.plural(len(view.models), 'model')}: top-1 accuracy over {title.lower()}. "
        "The table below holds the same figures."
    )
    front = [view.point(p, p.predicted_top1) for p in view.front]
    samples = dots(view.axes, (view.point(s, s.top1) for s in view.samples), "sample")
    lines = stretched(
        _band(view), samples, line(view.axes, front, "predicted") if len(front) > 1 else None
    )
    found = (view.point(p, p.predicted_top1) for p in view.found)
    predicted = stretched(dots(view.axes, found, "predicted-dots")) if view.found else None
    drawing = chart(
        view.axes,
        lines,
        predicted,
        _rings(view),
        _marks(view, selected),
        label=label,
        size="tall",
        data=_script_data(view),
    )
    return join((drawing, _legend(view)))


def _script_data(view: _View) -> dict[str, str]:
    """Return the axes for the script, which finds the dot nearest to the pointer."""
    axes = (("data-x", view.axes.x), ("data-y", view.axes.y))
    scales = {name: f"{s.low:.8g},{s.high:.8g},{int(s.log)}" for name, s in axes}
    return {**scales, "data-factor": f"{view.factor:g}"}


def _band(view: _View) -> Markup | None:
    """Return one standard deviation of the prediction around the front."""
    known = [p for p in view.front if p.predicted_std is not None]
    if len(known) < 2:
        return None

    def edge(sign: float) -> list[Point]:
        return [
            view.point(p, (p.predicted_top1 or 0.0) + sign * (p.predicted_std or 0.0))
            for p in known
        ]

    low, high = edge(-1.0), edge(1.0)
    limits = view.axes.y

    def inside(points: list[Point]) -> list[Point]:
        return [(x, min(max(y, limits.low), limits.high)) for x, y in points]

    return band(view.axes, inside(low), inside(high), "band")


def _marks(view: _View, selected: int | None) -> Markup:
    places = [view.axes.place(view.point(m.subnet, m.subnet.top1)) for _, m in view.models]
    labels: Sequence[Label | None] = [None] * len(view.models)
    if len(view.models) <= _MAX_LABELS:
        labels = place_labels(
            [m.name for _, m in view.models], places, obstacles=_along_front(view)
        )
    beaten = _beaten(view)
    marks = (
        _mark(view, index, label, beaten, selected=index == selected)
        for (index, _), label in zip(view.models, labels, strict=True)
    )
    return element("g", {"class": "marks"}, *marks)


def _trained_alone(view: _View) -> list[Point]:
    """Return the place of each architecture trained alone, inside the plot or not."""
    return [
        view.point(model.subnet, pair.alone.value)
        for _, model in view.models
        if (pair := model.pair) is not None
    ]


def _rings(view: _View) -> Markup | None:
    """Return a small ring for each architecture trained alone, over or under its model."""
    places = [point for point in _trained_alone(view) if view.axes.y.contains(point[1])]
    rings = [circle(view.axes, point, "alone", radius=4) for point in places]
    return element("g", None, *rings) if rings else None


def _along_front(view: _View) -> list[Point]:
    """Return places on the predicted line, close to one another."""
    ends = [view.axes.place(view.point(p, p.predicted_top1)) for p in view.front]
    return [
        (x1 + (x2 - x1) * i / 8, y1 + (y2 - y1) * i / 8)
        for (x1, y1), (x2, y2) in pairwise(ends)
        for i in range(9)
    ]


def _beaten(view: _View) -> dict[str, str]:
    """Return the models that another one of no more cost beats beyond the noise."""
    return beaten_by(contenders((model for _, model in view.models), view.cost))


def _mark(
    view: _View, index: int, label: Label | None, beaten: Mapping[str, str], *, selected: bool
) -> Markup:
    """Return a model: spread bars, a disc and its name, as one link to its panel."""
    model = dict(view.models)[index]
    subnet = model.subnet
    point = view.point(subnet, subnet.top1)
    style = "mark" if model.verified else "mark unverified"
    if model.name in beaten:
        style += " beaten"
    x, y = view.axes.place(point)
    name = None
    if label is not None:
        name = words(x, y, label.text, style=f"name {label.anchor}", dx=label.dx, dy=label.dy)
    described = (
        f"{model.name}: {top1_words(model)} top-1, "
        f"{_cost_words(view.cost, subnet.costs[view.cost])}"
    )
    return element(
        "a",
        {
            "href": f"#m{index}",
            "class": style,
            "data-m": index,
            "aria-label": described,
            "aria-current": "true" if selected else None,
        },
        _interval(view, model),
        _spread(view, model),
        circle(view.axes, point, "ring", radius=11),
        circle(view.axes, point, "disc", radius=6),
        name,
    )


def _spread(view: _View, model: Model) -> Markup | None:
    """Return the bar from one MAD below the median latency to its 90th percentile."""
    mad, p90 = number(model.card, "latency_mad_ms"), number(model.card, "latency_p90_ms")
    if view.cost != "latency_ms" or mad is None:
        return None
    median, top1 = view.point(model.subnet, model.subnet.top1)
    start = max(median - mad, view.axes.x.low)
    end = min(max(median + mad, p90 or 0.0), view.axes.x.high)
    return _bar(view, (start, top1), (end, top1), "spread")


def _interval(view: _View, model: Model) -> Markup | None:
    """Return the 95 % interval of the accuracy, shown for the model that is looked at."""
    share = model.share
    if share is None:
        return None
    low, high = share.interval
    x, _ = view.point(model.subnet, share.value)
    limits = view.axes.y
    return _bar(
        view, (x, max(100 * low, limits.low)), (x, min(100 * high, limits.high)), "interval"
    )


def _bar(view: _View, start: Point, end: Point, style: str) -> Markup:
    (x1, y1), (x2, y2) = view.axes.place(start), view.axes.place(end)
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element("line", {"class": style, **{k: f"{short(v)}%" for k, v in ends.items()}})


def _legend(view: _View) -> Markup:
    entries: list[tuple[str, str]] = []
    if view.models:
        spread = "; bar: median \u2212 MAD to 90th percentile" if view.cost == "latency_ms" else ""
        entries.append(("measured", f"measured model{spread}"))
        if _beaten(view):
            text = "not in the front: another model costs no more and is more accurate beyond noise"
            entries.append(("beaten", text))
        if alone := _trained_alone(view):
            outside = sum(not view.axes.y.contains(y) for _, y in alone)
            note = f", {outside} outside the axis" if outside else ""
            entries.append(("alone", f"the same architecture trained alone{note}"))
    if view.front:
        std = any(p.predicted_std is not None for p in view.front)
        entries.append(("front", f"predicted front{' and one standard deviation' if std else ''}"))
    if view.samples:
        below = f", {view.hidden:,} more below the axis" if view.hidden else ""
        evaluated = numbers.plural(len(view.samples), "evaluated subnet")
        entries.append(("evaluated", f"{evaluated} (validation images){below}"))
    return legend(*entries)


def _cost_words(cost: str, value: float) -> str:
    if cost == "latency_ms":
        return numbers.milliseconds(value)
    return f"{numbers.count(value)} {_TITLES[cost] if cost == 'macs' else 'parameters'}"
