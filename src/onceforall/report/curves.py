"""Charts of what led to the models: training, prediction, search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from onceforall.artifacts import Epoch
from onceforall.report import numbers
from onceforall.report.plot import Axes, Point
from onceforall.report.records import Subnet
from onceforall.report.run_folder import Run
from onceforall.report.scales import Scale, fit_scale

_PROBES = ("largest", "random", "smallest")
_MIN_LABELLED_PHASE = 12.0  # percent of the width
_VOLUME = (
    "The volume that the front dominates: it rises as the front moves to more accurate and "
    "cheaper subnets, and levels off when the search is done."
)

# Style, words of the legend, points.
Curve = tuple[str, str, list[Point]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A phase of training behind a chart.

    Attributes:
        left: Where it starts, in percent of the width.
        width: How wide it is.
        name: Its name, cut to the room there is; empty where there is none.
    """

    left: float
    width: float
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart with its caption and legend.

    Attributes:
        caption: What it shows.
        label: What a reader who cannot see it should know.
        axes: Its axes.
        lines: Style and path of each line.
        dots: Style, radius in pixels and place of each dot.
        legend: Style of the key and words of each entry.
        note: More about it.
        phases: Phases of training, in order.
        rollbacks: Where training went back, in percent of the width.
        style: Class of the figure.
        size: Class of the chart, which sets its height.
    """

    caption: str
    label: str
    axes: Axes
    lines: Sequence[tuple[str, str]]
    dots: Sequence[tuple[str, float, Point]]
    legend: Sequence[tuple[str, str]] = ()
    note: str = ""
    phases: Sequence[Phase] = ()
    rollbacks: Sequence[float] = ()
    style: str = ""
    size: str = ""


def training_figures(run: Run) -> list[Figure]:
    """Return loss and accuracy over the epochs; nothing where no epoch has ended."""
    loss = [("train", "training loss, mean of the subnets of a step", _curve(run.epochs, "loss"))]
    top1 = [("train", "training images, leading subnet", _curve(run.epochs, "top1", 100.0))]
    top1 += [(name, f"{name} subnet", _probes(run.epochs, name)) for name in _PROBES]
    # What is open of it grows from phase to phase: a phase that opens more may begin lower.
    grid = _curve(run.epochs, "grid_mean", 100.0)
    top1.append(("grid", "mean of the grid as far as it is open", grid))
    figures = (
        _training_figure(run, loss, title="Loss", limits=(0.0, float("inf"))),
        _training_figure(run, top1, title="Top-1 accuracy (%)", limits=(0.0, 100.0)),
    )
    return [figure for figure in figures if figure is not None]


def search_figures(run: Run) -> list[Figure]:
    """Return how well accuracy was predicted and how the search went, as far as it is known."""
    groups = (
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
    figures = (
        _agreement(groups, what="top-1 accuracy", unit="%", limits=(0.0, 100.0)),
        _hypervolume(run),
    )
    return [figure for figure in figures if figure is not None]


def latency_figure(run: Run) -> Figure | None:
    """Return measured over predicted latency, or None where no pair is known."""
    groups = (
        ("found", "found by the search, then measured", _latency_pairs(run.samples)),
        ("shipped", "shipped models", _latency_pairs([m.subnet for m in run.models])),
    )
    return _agreement(groups, what="latency", unit="ms", limits=(0.0, float("inf")))


def _agreement(
    groups: Sequence[Curve], *, what: str, unit: str, limits: tuple[float, float]
) -> Figure | None:
    """Return measured over predicted figures with the diagonal, on two equal axes."""
    curves = [curve for curve in groups if curve[2]]
    values = [value for _, _, points in curves for point in points for value in point]
    if not values:
        return None
    both = fit_scale(values, may_be_log=unit == "ms", limits=limits)
    axes = Axes(x=both, y=both, x_title=f"Predicted ({unit})", y_title=f"Measured ({unit})")
    entries = [(f"pair-{style}", f"{name} ({len(points)})") for style, name, points in curves]
    return Figure(
        caption=f"Prediction of {what}",
        label=f"Measured over predicted {what}; points on the diagonal are predicted exactly",
        axes=axes,
        lines=[("ideal", axes.line([(both.low, both.low), (both.high, both.high)]))],
        dots=[
            (f"pair-{style}", 4, axes.place(point))
            for style, _, points in curves
            for point in points
        ],
        legend=[*entries, ("ideal-line", "predicted exactly")],
        size="square",
    )


def _hypervolume(run: Run) -> Figure | None:
    """Return the hypervolume over the generations, or None where there is no history."""
    volumes = () if run.search is None else run.search.hypervolume
    if len(volumes) < 2:
        return None
    axes = Axes(
        x=Scale(low=0.0, high=len(volumes) - 1, whole=True),
        y=fit_scale(volumes),
        x_title="Generation",
        y_title="",
    )
    history = [(float(generation), volume) for generation, volume in enumerate(volumes)]
    last = numbers.significant(volumes[-1], 4)
    return Figure(
        caption="Search: hypervolume of the front",
        label=f"Hypervolume of the front over the generations, {last} at the end",
        axes=axes,
        lines=[("curve found", axes.line(history))],
        dots=[("end-found", 4, axes.place(history[-1]))],
        note=_VOLUME,
    )


def _training_figure(
    run: Run, curves: Sequence[Curve], *, title: str, limits: tuple[float, float]
) -> Figure | None:
    """Return one chart with phases behind the curves, or None without a point."""
    shown = [curve for curve in curves if curve[2]]
    if not shown:
        return None
    total = max([epoch.epochs for epoch in run.epochs] + [2.0])
    last = max(x for _, _, points in shown for x, _ in points)
    axes = Axes(
        x=Scale(low=min(1.0, last - 1), high=max(total, last), whole=True),
        y=fit_scale((y for _, _, points in shown for _, y in points), limits=limits),
        x_title="Epoch",
        y_title="",
    )
    ends = [
        (style, label, points[-1], numbers.significant(points[-1][1]))
        for style, label, points in shown
    ]
    legend = [(f"curve-{style}", f"{label}: {value}") for style, label, _, value in ends]
    if run.rollbacks:
        legend.append(("curve-rollback", "went back to the last good checkpoint"))
    final = "; ".join(f"{label} {value}" for _, label, _, value in ends)
    return Figure(
        caption=title,
        label=f"{title} over the epochs. At the end: {final}.",
        axes=axes,
        lines=[(f"curve {style}", axes.line(points)) for style, _, points in shown],
        dots=[(f"end-{style}", 3.5, axes.place(end)) for style, _, end, _ in ends],
        legend=legend,
        phases=_phases(run.epochs, axes),
        rollbacks=[axes.x.position(max(at, axes.x.low)) for at in sorted(set(run.rollbacks))],
        style="training",
    )


def _curve(epochs: Sequence[Epoch], key: str, factor: float = 1.0) -> list[Point]:
    found = ((epoch.epochs_done, getattr(epoch, key)) for epoch in epochs)
    return [(x, factor * y) for x, y in found if y is not None]


def _probes(epochs: Sequence[Epoch], name: str) -> list[Point]:
    return [(e.epochs_done, 100 * e.probes[name]) for e in epochs if name in e.probes]


def _phases(epochs: Sequence[Epoch], axes: Axes) -> list[Phase]:
    """Return the phases, if there is more than one; those with room have their names."""
    phases = []
    for name, group in groupby(epochs, key=lambda epoch: epoch.phase):
        ends = [epoch.epochs_done for epoch in group]
        left = max(0.0, axes.x.position(max(ends[0] - 1, axes.x.low)))
        width = axes.x.position(ends[-1]) - left
        fits = max(3, int(width / 100 * 420 / 6.2)) if width >= _MIN_LABELLED_PHASE else 0
        phases.append(Phase(left=left, width=width, name=name[:fits]))
    return phases if len(phases) > 1 else []


def _measured_front(run: Run) -> list[Subnet]:
    """Return the points of the front that were evaluated too, with both figures."""
    measured = {subnet.arch: subnet.top1 for subnet in run.samples}
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
