"""The report of a run: one HTML file that needs nothing else.

Style and script are files of this package and are written into the page. A content security
policy forbids the page to load anything and to run any script but its own, whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from pathlib import Path
from string import Template

from onceforall.files import write_text
from onceforall.report import curves, facts
from onceforall.report.drawing import shared_frame
from onceforall.report.markup import Markup, element, join, script_json
from onceforall.report.model_panel import model_panel
from onceforall.report.model_table import model_table
from onceforall.report.pareto_chart import chart_points, pareto_section
from onceforall.report.run_folder import Run, read_run
from onceforall.report.snippets import usage
from onceforall.report.tuned_table import tuned_table

REPORT_NAME = "report.html"


def build_report(folder: Path) -> str:
    """Return the report of a run as HTML; the same folder gives the same text.

    Args:
        folder: Run folder, finished or not. What is missing is named in the report.

    Raises:
        ConfigError: If ``folder`` is not a folder.
    """
    run = read_run(folder)
    script = _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    title = facts.title(run)
    return Template(_asset("page.html")).substitute(
        title=element("title", None, f"{title} \u2013 onceforall report"),
        script_hash=f"sha256-{digest}",
        style=_asset("style.css"),
        script=script,
        data=script_json(chart_points(run)),
        heading=element("h1", None, title),
        headline=element("p", {"class": "headline"}, facts.headline(run)),
        key_facts=element("div", {"class": "key-facts"}, facts.key_facts(run)),
        notes=_notes(run),
        explorer=_explorer(run),
        sections=_sections(run),
    )


def write_report(folder: Path) -> Path:
    """Write the report of a run to ``report.html`` in its folder, atomically.

    Args:
        folder: Run folder, finished or not.

    Returns:
        The file.

    Raises:
        ConfigError: If ``folder`` is not a folder.
        OSError: If the file cannot be written.
    """
    path = folder / REPORT_NAME
    write_text(path, build_report(folder))
    return path


def _asset(name: str) -> str:
    """Return a file of this package without indentation: the page is read by browsers."""
    content = resources.files("onceforall.report").joinpath(name).read_text(encoding="utf-8")
    return "\n".join(line.strip() for line in content.splitlines() if line.strip())


def _notes(run: Run) -> Markup | None:
    if not run.notes:
        return Markup("")
    items = (element("li", None, note) for note in run.notes)
    heading = element("h2", {"id": "missing"}, "Not finished")
    lead = element(
        "p", None, "This run is not complete. The report shows what is there; missing are:"
    )
    return element(
        "section",
        {"class": "notes", "aria-labelledby": "missing"},
        heading,
        lead,
        element("ul", None, *items),
    )


def _explorer(run: Run) -> Markup:
    """Return chart, table and panels of the models."""
    selected = _first_selection(run)
    pareto = pareto_section(run, selected)
    if pareto is None and not run.models:
        return Markup("")
    frame = shared_frame(run)
    panels = [
        model_panel(model, i, run_name=run.name, frame=frame, selected=i == selected)
        for i, model in enumerate(run.models)
    ]
    parts = (
        None if pareto is None else element("div", {"class": "card chart-card"}, pareto),
        element("div", {"class": "card panels"}, *panels) if panels else None,
        element("div", {"class": "card table-card"}, model_table(run, selected))
        if panels
        else None,
    )
    explorer = element(
        "section",
        {"class": "explorer", "aria-labelledby": "models-heading"},
        element("h2", {"id": "models-heading"}, "Models" if panels else "Subnets so far"),
        element("div", {"class": "explorer-grid" if panels else None}, *parts),
    )
    if selected is None:
        return explorer
    return join((explorer, usage(run.models[selected], run.name)))


def _first_selection(run: Run) -> int | None:
    """Return the most accurate model, the fastest of equals."""
    if not run.models:
        return None
    return max(range(len(run.models)), key=lambda i: (run.models[i].subnet.top1 or 0.0, -i))


def _sections(run: Run) -> Markup:
    charts = (curves.predictor_chart(run), curves.hypervolume_chart(run))
    how = join((facts.search_facts(run), element("div", {"class": "pair"}, *charts)))
    has_search = run.search or run.predictor
    return join(
        (
            _section("Before and after fine-tuning", "tuned", tuned_table(run)),
            _section("Training", "training", curves.training_charts(run)),
            _section("Prediction and search", "search", how if has_search else None),
            _section("Latency", "latency", _latency(run)),
            _section("How this was made", "provenance", facts.provenance(run)),
        )
    )


def _latency(run: Run) -> Markup | None:
    parts = (facts.latency_section(run), curves.latency_chart(run))
    return element("div", {"class": "pair"}, *parts) if any(parts) else None


def _section(heading: str, name: str, content: Markup | None) -> Markup | None:
    if not content:
        return None
    return element(
        "section",
        {"class": "card", "aria-labelledby": name},
        element("h2", {"id": name}, heading),
        content,
    )
