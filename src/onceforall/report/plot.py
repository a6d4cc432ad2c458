"""What charts are made of: axes, and places and paths in percents of the plot.

A chart is one SVG without a fixed size. Marks and text are placed in percents and keep their
size, lines live in a nested SVG that is stretched to the plot; so the same chart is sharp and
legible at any width, on paper, and without a script. ``templates/charts.html`` draws it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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

    def held(self, point: Point) -> Point:
        """Return the point inside the plot that is nearest to a point."""
        return self.x.held(point[0]), self.y.held(point[1])

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """Return the ticks in percents from the left, with their labels."""
        ticks = self.x.ticks
        return list(zip(map(self.x.position, ticks), tick_labels(ticks), strict=True))

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """Return the ticks in percents from the top, with their labels."""
        ticks = self.y.ticks
        places = (100 - self.y.position(tick) for tick in ticks)
        return list(zip(places, tick_labels(ticks), strict=True))

    def line(self, points: Iterable[Point]) -> str:
        """Return the path through points, its coordinates percents."""
        places = map(self.place, points)
        return "M" + "L".join(f"{short(x)} {short(y)}" for x, y in places)

    def area(self, low: Sequence[Point], high: Sequence[Point]) -> str:
        """Return the outline between two lines, held inside the plot."""
        return self.line(map(self.held, (*high, *reversed(low)))) + "Z"

    def dots(self, points: Iterable[Point]) -> str:
        """Return many small dots as one path of zero-length strokes."""
        # A tenth of a percent is less than a pixel.
        places = map(self.place, points)
        return "".join(f"M{short(x, 1)} {short(y, 1)}z" for x, y in places) or "M0 0"


def short(value: float, decimals: int = 2) -> str:
    """Return a coordinate without zeros at its end."""
    written = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if written == "-0" else written
