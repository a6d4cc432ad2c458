"""The page that shows several runs: their fronts on one chart, the settings that differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onceforall.files import check_writable, write_text
from onceforall.report import run_facts
from onceforall.report.compared import SIDE_BY_SIDE, Compared, compare_runs
from onceforall.report.curves import Figure
from onceforall.report.page import asset, templates
from onceforall.report.plot import Axes, Point
from onceforall.report.run_folder import Run
from onceforall.report.scales import fit_scale

COMPARISON_NAME = "comparison.html"
# Colours of the style; further runs begin again.
_NUM_STYLES = 6


def build_comparison(folders: Sequence[Path]) -> str:
    """Return a page about several runs as HTML; the same folders give the same text.

    Raises:
        ConfigError: If there are fewer than two, or one is no run.
    """
    compared = compare_runs(folders)
    columns = (compared.epochs, compared.volumes, compared.on_front)
    rows = zip(compared.names, compared.runs, *columns, strict=True)
    return (
        templates()
        .get_template("compare.html")
        .render(
            compared=compared,
            side_by_side=SIDE_BY_SIDE,
            figure=fronts_figure(compared),
            rows=[(*row, run_facts.headline(row[1])) for row in rows],
            paths=[str(folder) for folder in folders],
            style=asset("style.css"),
        )
    )


def write_comparison(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page, atomically.

    Args:
        folders: Run folders, two or more.
        out: File to write; by default ``comparison.html`` beside the first run.

    Returns:
        The file.

    Raises:
        ConfigError: If there are fewer than two, or one is no run.
        OSError: If the file cannot be written.
    """
    path = folders[0].resolve().parent / COMPARISON_NAME if out is None else out
    check_writable(path)
    write_text(path, build_comparison(folders))
    return path


def fronts_figure(compared: Compared) -> Figure | None:
    """Return the models of all runs over latency, the front of each as a line; None without any."""
    points = [_top1_points(run) for run in compared.runs]
    values = [point for each in points for point in each]
    if not values:
        return None
    axes = Axes(
        x=fit_scale((x for x, _ in values), may_be_log=True, limits=(0.0, float("inf"))),
        y=fit_scale((y for _, y in values), limits=(0.0, 100.0)),
        x_title="Latency (ms)",
        y_title="Test top-1 accuracy (%)",
    )
    styles = [f"series-{number % _NUM_STYLES}" for number in range(len(points))]
    return Figure(
        caption="Measured fronts",
        label=f"Test top-1 over latency of the models of {', '.join(compared.names)}. "
        "The table below holds the same figures.",
        axes=axes,
        lines=[
            (f"curve {style}", axes.line(front))
            for style, each in zip(styles, points, strict=True)
            if len(front := _front(each)) > 1
        ],
        dots=[
            (f"dot-{style}", 5, axes.place(point))
            for style, each in zip(styles, points, strict=True)
            for point in each
        ],
        legend=list(zip((f"of-{style}" for style in styles), compared.names, strict=True)),
        note="Dots are the shipped models of a run, the line joins those on its front.",
        size="tall",
    )


def _top1_points(run: Run) -> list[Point]:
    return [(model.card.latency_ms, 100 * model.card.top1) for model in run.models]


def _front(points: Sequence[Point]) -> list[Point]:
    """Return the points that are better than every faster one, fastest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not found or point[1] > found[-1][1]:
            found.append(point)
    return found
