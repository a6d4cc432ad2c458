"""The frame of every chart: grid, ticks, titles; and lines and dots inside it.

A chart is one SVG without a fixed size. Marks and text are placed in percents and keep their
size, lines live in a nested SVG that is stretched to the plot; so the same chart is sharp and
legible at any width, on paper, and without a script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onceforall.report.markup import Markup, element, join
from onceforall.report.scales import Scale, tick_labels

# A point on a chart, in the units of its axes.
Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Both axes of a chart.

    Attributes:
        x: Horizontal axis.
        y: Vertical axis, upwards.
        x_title: What is on the horizontal axis, with its unit.
        y_title: What is on the vertical axis, with its unit; empty where the caption says it.
    """

    x: Scale
    y: Scale
    x_title: str
    y_title: str

    def place(self, point: Point) -> Point:
        """Return a point in percents from the left and from the top."""
        return self.x.position(point[0]), 100 - self.y.position(point[1])

    def contains(self, point: Point) -> bool:
        """Return whether a point lies inside the plot."""
        return self.x.contains(point[0]) and self.y.contains(point[1])


def chart(
    axes: Axes,
    *marks: str | None,
    label: str,
    size: str = "",
    data: Mapping[str, str] | None = None,
    behind: str | None = None,
) -> Markup:
    """Return a whole chart.

    Args:
        axes: Its axes.
        marks: Contents in drawing order: :func:`stretched` lines and placed marks.
        label: What a reader who cannot see it should know.
        size: Class that sets its height, ``"tall"`` or none.
        data: Attributes for the script; marks inside can be focused then, otherwise the chart is
            one image.
        behind: Marks under the grid.
    """
    role = "img" if data is None else "group"
    drawing = element(
        "svg",
        {"class": "plot", "role": role, "aria-label": label, **(data or {})},
        behind,
        _grid(axes),
        *marks,
    )
    y_title = element("div", {"class": "y-title", "aria-hidden": "true"}, axes.y_title)
    return element(
        "div",
        {"class": f"chart {size}".strip()},
        y_title if axes.y_title else None,
        drawing,
        element("div", {"class": "x-title", "aria-hidden": "true"}, axes.x_title),
    )


def stretched(*shapes: str | None) -> Markup:
    """Return shapes whose coordinates are percents; strokes keep their width."""
    box = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none", "class": "stretch"}
    return element("svg", box, *shapes)


def line(axes: Axes, points: Iterable[Point], style: str) -> Markup:
    """Return a line through points, for :func:`stretched`."""
    return element("path", {"class": style, "d": _path([axes.place(p) for p in points])})


def band(axes: Axes, low: Sequence[Point], high: Sequence[Point], style: str) -> Markup:
    """Return the area between two lines, for :func:`stretched`."""
    outline = [axes.place(p) for p in (*high, *reversed(low))]
    return element("path", {"class": style, "d": _path(outline) + "Z"})


def dots(axes: Axes, points: Iterable[Point], style: str) -> Markup:
    """Return many small dots as one path of zero-length strokes, for :func:`stretched`."""
    # A tenth of a percent is less than a pixel.
    places = (axes.place(p) for p in points)
    moves = "".join(f"M{short(x, 1)} {short(y, 1)}z" for x, y in places)
    return element("path", {"class": f"dots {style}", "d": moves or "M0 0"})


def circle(axes: Axes, point: Point, style: str, *, radius: float = 4) -> Markup:
    """Return one circle with a radius in pixels."""
    x, y = axes.place(point)
    return element(
        "circle", {"class": style, "cx": f"{short(x)}%", "cy": f"{short(y)}%", "r": radius}
    )


def words(
    x: float, y: float, content: str, *, style: str = "", dx: float = 0, dy: float = 0
) -> Markup:
    """Return text at a place in percents, moved by pixels."""
    place = {"x": f"{short(x)}%", "y": f"{short(y)}%", "dx": dx or None, "dy": dy or None}
    return element("text", {"class": style or None, **place}, content)


def legend(*entries: tuple[str, str]) -> Markup:
    """Return a legend.

    Args:
        entries: Style of the key (a class) and its words.
    """
    items = (
        element("li", None, element("i", {"class": f"key {style}", "aria-hidden": "true"}), label)
        for style, label in entries
    )
    return element("ul", {"class": "legend"}, *items)


def short(value: float, decimals: int = 2) -> str:
    """Return a coordinate without zeros at its end."""
    written = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if written == "-0" else written


def _path(places: Iterable[Point]) -> str:
    return "M" + "L".join(f"{short(x)} {short(y)}" for x, y in places)


def _grid(axes: Axes) -> Markup:
    x_ticks, y_ticks = axes.x.ticks, axes.y.ticks
    parts = []
    for tick, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        y = 100 - axes.y.position(tick)
        at = f"{short(y)}%"
        parts.append(element("line", {"x2": "100%", "y1": at, "y2": at}))
        parts.append(words(0, y, label, style="y-tick", dx=-8, dy=4))
    for tick, label in zip(x_ticks, tick_labels(x_ticks), strict=True):
        x = axes.x.position(tick)
        at = f"{short(x)}%"
        parts.append(element("line", {"y2": "100%", "x1": at, "x2": at}))
        parts.append(words(x, 100, label, style="x-tick", dy=18))
    base = element("line", {"class": "base", "x2": "100%", "y1": "100%", "y2": "100%"})
    return element("g", {"class": "grid", "aria-hidden": "true"}, join(parts), base)
