"""Draws the charts of the pages from the tables in ``docs/results``.

python docs/charts.py            writes them
python docs/charts.py --check    says which are not up to date, and exits 1
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent
WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 616, 24, 308
COLORS = ("#3f51b5", "#e07a1f", "#2a9d6f", "#888888")
STYLE = (
    "text{font:12px sans-serif;fill:#666}.grid{stroke:#88888844}"
    ".line{fill:none;stroke-width:2}.title{font-size:13px;fill:#777}"
)

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Lines over a logarithmic axis.

    Attributes:
        lines: Points ``(x, y)`` of each line, by its name; y is a fraction.
        x_title: What x is, with its unit.
        x_ticks: Where the grid has labels.
        y_range: Lowest and highest fraction.
    """

    lines: Mapping[str, Points]
    x_title: str
    x_ticks: Sequence[float]
    y_range: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point is drawn."""
        low, high = (math.log(self.x_ticks[i]) for i in (0, -1))
        share_x = (math.log(x) - low) / (high - low)
        share_y = (y - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return round(LEFT + (RIGHT - LEFT) * share_x, 1), round(
            BOTTOM - (BOTTOM - TOP) * share_y, 1
        )

    def svg(self) -> str:
        """Return the drawing."""
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<style>{STYLE}</style>",
            *self._grid(),
        ]
        for index, (name, points) in enumerate(self.lines.items()):
            color = COLORS[index]
            drawn = [self.place(x, y) for x, y in sorted(points)]
            path = " ".join(f"{x},{y}" for x, y in drawn)
            parts.append(f'<polyline class="line" stroke="{color}" points="{path}"/>')
            parts += [f'<circle cx="{x}" cy="{y}" r="4" fill="{color}"/>' for x, y in drawn]
            key = TOP + 18 * (len(self.lines) - index)
            parts.append(f'<circle cx="{LEFT + 16}" cy="{key}" r="4" fill="{color}"/>')
            parts.append(f'<text x="{LEFT + 26}" y="{key + 4}">{name}</text>')
        return "\n".join([*parts, "</svg>", ""])

    def _grid(self) -> list[str]:
        parts = []
        for x in self.x_ticks:
            at = self.place(x, self.y_range[0])[0]
            parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{BOTTOM}"/>')
            parts.append(f'<text x="{at}" y="{BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
        low, high = (round(100 * y) for y in self.y_range)
        for percent in range(low, high + 1, 2):
            at = self.place(self.x_ticks[0], percent / 100)[1]
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at}" y2="{at}"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{percent} %</text>')
        middle = (LEFT + RIGHT) // 2
        title = f'<text class="title" x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">'
        return [*parts, f"{title}{self.x_title}</text>"]


def rows_of(name: str) -> list[dict[str, str]]:
    """Return the rows of a table in ``docs/results``."""
    with (DOCS / "results" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def equal_time() -> Chart:
    """Return the models of the CIFAR-10 run beside the same networks trained alone."""
    rows = [row for row in rows_of("equal_time.csv") if row["data"] == "cifar10"]
    lines = {
        title: [(float(row["latency_ms"]), float(row[column])) for row in rows]
        for title, column in (
            ("of one supernet, 53 minutes for all", "supernet_top1"),
            ("trained alone, 7.5 minutes each", "alone_top1"),
        )
    }
    return Chart(
        lines=lines,
        x_title="latency in ms, one thread; top-1 on CIFAR-10's test images",
        x_ticks=(0.25, 0.5, 1, 1.6),
        y_range=(0.84, 0.94),
    )


CHARTS: Mapping[str, Callable[[], Chart]] = {"equal_time": equal_time}


def main() -> None:
    """Draw the charts, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, chart in CHARTS.items():
        path, text = DOCS / "images" / f"{name}.svg", chart().svg()
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"not up to date: {', '.join(stale)}; run  python docs/charts.py")


if __name__ == "__main__":
    main()
