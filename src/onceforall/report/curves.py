"""Charts of what led to the models: training, prediction, search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from onceforall.report import numbers
from onceforall.report.markup import Markup, element, join
from onceforall.report.plot import Axes, Point, chart, circle, legend, line, short, stretched, words
from onceforall.report.records import Record, Subnet, number, section, sequence, text
from onceforall.report.run_folder import Run
from onceforall.report.scales import Scale, fit_scale

# Style of each curve, and where its name stands in the legend.
_PROBES = ("largest", "random", "smallest")
_MIN_LABELLED_PHASE = 12.0  # percent of the width

Curve = tuple[str, str, list[Point]]


def training_charts(run: Run) -> Markup | None:
    """Return loss and accuracy over the epochs, or None where no epoch has ended."""
    if not run.epochs:
        return None
    loss = [("train", "training loss, mean of the subnets of a step", _curve(run.epochs, "loss"))]
    top1 = [("train", "training images, leading subnet", _curve(run.epochs, "top1", 100.0))]
    for name in _PROBES:
        top1.append((name, f"{name} subnet", _probe_curve(run.epochs, name)))
    # What is open of it grows from phase to phase: a phase that opens more may begin lower.
    top1.append(
        ("grid", "mean of the grid as far as it is open", _curve(run.epochs, "grid_mean", 100.0))
    )
    accuracy = _training_chart(run, top1, title="Top-1 accuracy (%)", limits=(0.0, 100.0))
    charts = (
        _training_chart(run, loss, title="Loss", limits=(0.0, float("inf"))),
        accuracy,
    )
    return element("div", {"class": "pair"}, *charts)


def predictor_chart(run: Run) -> Markup | None:
    """Return measured over predicted accuracy, or None where no pair is known."""
    groups = (
        ("held-out", "held-out subnets", _top1_pairs(_held_out(run.predictor))),
        (
            "found",
            "found by the search, then measured on the validation images",
            _top1_pairs(_measured_front(run)),
        ),
        (
            "shipped",
            "shipped models, on the test images",
            _top1_pairs([m.subnet for m in run.models]),
        ),
    )
    return _agreement_chart(groups, what="top-1 accuracy", unit="%", limits=(0.0, 100.0))


def latency_chart(run: Run) -> Markup | None:
    """Return measured over predicted latency, or None where no pair is known."""
    groups = (
        ("found", "found by the search, then measured", _latency_pairs(run.samples)),
        ("shipped", "shipped models", _latency_pairs([m.subnet for m in run.models])),
    )
    return _agreement_chart(groups, what="latency", unit="ms", limits=(0.0, float("inf")))


def _agreement_chart(
    groups: Sequence[Curve], *, what: str, unit: str, limits: tuple[float, float]
) -> Markup | None:
    """Return measured over predicted figures with the diagonal, on two equal axes."""
    curves = [curve for curve in groups if curve[2]]
    values = [value for _, _, points in curves for point in points for value in point]
    if not values:
        return None
    both = fit_scale(values, may_be_log=unit == "ms", limits=limits)
    axes = Axes(x=both, y=both, x_title=f"Predicted ({unit})", y_title=f"Measured ({unit})")
    marks = [
        circle(axes, point, f"pair-{style}") for style, _, points in curves for point in points
    ]
    ideal = stretched(line(axes, [(both.low, both.low), (both.high, both.high)], "ideal"))
    label = f"Measured over predicted {what}; points on the diagonal are predicted exactly"
    entries = [(f"pair-{style}", f"{name} ({len(p)})") for style, name, p in curves]
    keys = legend(*entries, ("ideal-line", "predicted exactly"))
    drawing = chart(axes, ideal, *marks, label=label, size="square")
    caption = element("figcaption", None, f"Prediction of {what}")
    return element("figure", None, caption, drawing, keys)


def hypervolume_chart(run: Run) -> Markup | None:
    """Return the hypervolume over the generations, or None where there is no history."""
    history = [
        (float(i), float(v))
        for i, v in enumerate(sequence(run.search, "hypervolume"))
        if isinstance(v, int | float) and not isinstance(v, bool) and v == v
    ]
    if len(history) < 2:
        return None
    axes = Axes(
        x=Scale(low=0.0, high=history[-1][0], whole=True),
        y=fit_scale([v for _, v in history]),
        x_title="Generation",
        y_title="",
    )
    last = numbers.significant(history[-1][1], 4)
    drawing = chart(
        axes,
        stretched(line(axes, history, "curve found")),
        circle(axes, history[-1], "end-found", radius=4),
        label=f"Hypervolume of the front over the generations, {last} at the end",
    )
    caption = element("figcaption", None, "Search: hypervolume of the front")
    note = element(
        "p",
        {"class": "note"},
        "The volume that the front dominates: it rises as the front moves to more accurate and "
        "cheaper subnets, and levels off when the search is done.",
    )
    return element("figure", None, caption, drawing, note)


def _training_chart(
    run: Run, curves: Sequence[Curve], *, title: str, limits: tuple[float, float]
) -> Markup | None:
    """Return one chart with phases behind the curves, or None without a point."""
    shown = [curve for curve in curves if curve[2]]
    if not shown:
        return None
    total = max([number(event, "epochs") or 0.0 for event in run.epochs] + [2.0])
    last = max(x for _, _, points in shown for x, _ in points)
    axes = Axes(
        x=Scale(low=min(1.0, last - 1), high=max(total, last), whole=True),
        y=fit_scale((y for _, _, points in shown for _, y in points), limits=limits),
        x_title="Epoch",
        y_title="",
    )
    lines = stretched(*(line(axes, points, f"curve {style}") for style, _, points in shown))
    ends = [circle(axes, points[-1], f"end-{style}", radius=3.5) for style, _, points in shown]
    final = "; ".join(f"{label} {numbers.significant(points[-1][1])}" for _, label, points in shown)
    drawing = chart(
        axes,
        _rollbacks(run.rollbacks, axes),
        lines,
        *ends,
        behind=_phases(run.epochs, axes),
        label=f"{title} over the epochs. At the end: {final}.",
    )
    entries = [
        (f"curve-{style}", f"{label}: {numbers.significant(points[-1][1])}")
        for style, label, points in shown
    ]
    if run.rollbacks:
        entries.append(("curve-rollback", "went back to the last good checkpoint"))
    caption = element("figcaption", None, title)
    return element("figure", {"class": "training"}, caption, drawing, legend(*entries))


def _curve(epochs: Sequence[Record], key: str, factor: float = 1.0) -> list[Point]:
    found = ((number(e, "epochs_done"), number(e, key)) for e in epochs)
    return [(x, factor * y) for x, y in found if x is not None and y is not None]


def _probe_curve(epochs: Sequence[Record], name: str) -> list[Point]:
    found = ((number(e, "epochs_done"), number(section(e, "probes"), name)) for e in epochs)
    return [(x, 100 * y) for x, y in found if x is not None and y is not None]


def _phases(epochs: Sequence[Record], axes: Axes) -> Markup | None:
    """Return a shade behind every other phase and the names of those with room for them."""
    spans = []
    for name, events in groupby(epochs, key=lambda e: text(e, "phase") or ""):
        ends = [number(event, "epochs_done") or 0.0 for event in events]
        spans.append((name, ends[0] - 1, ends[-1]))
    if len(spans) < 2:
        return None
    parts = []
    for position, (name, start, end) in enumerate(spans):
        left = max(0.0, axes.x.position(max(start, axes.x.low)))
        width = axes.x.position(end) - left
        if position % 2:
            box = {"x": f"{short(left)}%", "width": f"{short(width)}%", "height": "100%"}
            parts.append(element("rect", {"class": "phase", **box}))
        if width >= _MIN_LABELLED_PHASE:
            fits = max(3, int(width / 100 * 420 / 6.2))
            parts.append(words(left + width / 2, 0, name[:fits], style="phase-name", dy=-6))
    return join(parts)


def _rollbacks(rollbacks: Sequence[Record], axes: Axes) -> Markup | None:
    places = sorted({number(event, "epochs_done") or 0.0 for event in rollbacks})
    parts = []
    for place in places:
        at = f"{short(axes.x.position(max(place, axes.x.low)))}%"
        parts.append(element("line", {"class": "rollback", "x1": at, "x2": at, "y2": "100%"}))
    return join(parts) if parts else None


def _held_out(predictor: Record) -> list[Subnet]:
    from_records = [r for r in sequence(predictor, "held_out") if isinstance(r, dict)]
    return [_bare(r, r) for r in from_records]


def _bare(predicted: Record, measured: Record) -> Subnet:
    return Subnet(
        label="",
        arch=None,
        top1=number(measured, "top1"),
        predicted_top1=number(predicted, "predicted_top1"),
        predicted_std=None,
        predicted_latency_ms=None,
        costs={},
    )


def _measured_front(run: Run) -> list[Subnet]:
    """Return the points of the front that were evaluated too, with both figures."""
    measured = {s.arch: s.top1 for s in run.samples if s.arch is not None}
    return [
        replace(point, top1=measured[point.arch]) for point in run.front if point.arch in measured
    ]


def _latency_pairs(subnets: Sequence[Subnet]) -> list[Point]:
    return [
        (s.predicted_latency_ms, s.costs["latency_ms"])
        for s in subnets
        if s.predicted_latency_ms is not None and "latency_ms" in s.costs
    ]


def _top1_pairs(subnets: Sequence[Subnet]) -> list[Point]:
    return [
        (100 * s.predicted_top1, 100 * s.top1)
        for s in subnets
        if s.predicted_top1 is not None and s.top1 is not None
    ]
