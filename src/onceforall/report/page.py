"""The report of a run: one HTML file that needs nothing else.

What it shows is computed here and in the modules beside this one; how it is marked up is in
``templates/``, where everything that a user can name is escaped. Style and script are written
into the page. A content security policy forbids the page to load anything and to run any script
but its own, whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2

from onceforall.errors import ConfigError, InfeasibleError
from onceforall.files import check_writable, write_text
from onceforall.measure.choice import choose
from onceforall.measure.comparison import beaten_by, contenders
from onceforall.report import numbers, run_facts
from onceforall.report.curves import latency_figure, search_figures, training_figures
from onceforall.report.drawing import draw, kernel_style, shared_frame
from onceforall.report.pareto_chart import chart_points, pareto_views
from onceforall.report.plot import short
from onceforall.report.records import Model
from onceforall.report.run_folder import Run, read_run
from onceforall.report.tuned_table import tuned_rows

REPORT_NAME = "report.html"
_FILTERS = (
    numbers.count,
    numbers.data_size,
    numbers.duration,
    numbers.fact_name,
    numbers.fact_title,
    numbers.fact_value,
    numbers.interval,
    numbers.magnitude,
    numbers.milliseconds,
    numbers.percent,
    numbers.plural,
    numbers.share,
    numbers.significant,
    run_facts.check_words,
    run_facts.table_facts,
    run_facts.target_words,
    kernel_style,
)


def build_report(folder: Path) -> str:
    """Return the report of a run as HTML; the same folder gives the same text.

    Args:
        folder: Run folder, finished or not. What is missing is named in the report. What is there
            to copy names files by this path.

    Raises:
        ConfigError: If ``folder`` is not a folder.
    """
    run = read_run(folder)
    script = asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    frame = shared_frame(run)
    return (
        templates()
        .get_template("page.html")
        .render(
            run=run,
            title=run_facts.title(run),
            headline=run_facts.headline(run),
            device=run_facts.device(run),
            software=run_facts.software(run),
            classes=run_facts.class_names(run),
            configuration=run_facts.configuration(run),
            verdict=run_facts.verdict(run),
            views=pareto_views(run),
            selected=_first_selection(run),
            drawings=[draw(model, frame) for model in run.models],
            fills=[_fills(model, folder) for model in run.models],
            beaten=beaten_by(contenders(model.card for model in run.models)),
            counts=sorted({share.count for m in run.models if (share := m.share) is not None}),
            tuned=tuned_rows(run),
            training=training_figures(run),
            search=search_figures(run),
            latency=latency_figure(run),
            points=chart_points(run),
            command=f"ofa baseline {shlex.quote(str(folder))}",
            style=asset("style.css"),
            script=script,
            script_hash=f"sha256-{digest}",
        )
    )


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run, atomically.

    Args:
        folder: Run folder, finished or not.
        out: File to write; by default ``report.html`` in the folder.

    Returns:
        The file.

    Raises:
        ConfigError: If ``folder`` is not a folder.
        OSError: If the file cannot be written.
    """
    path = folder / REPORT_NAME if out is None else out
    if out is not None:
        check_writable(out)
    write_text(path, build_report(folder))
    return path


@cache
def templates() -> jinja2.Environment:
    """Return the templates; a name that they are not given is an error, everything is escaped."""
    templates = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
    )
    templates.filters |= {function.__name__: function for function in _FILTERS}
    templates.filters["at"] = lambda value: f"{short(value)}%"
    templates.globals |= {name: getattr(numbers, name) for name in ("SPACE", "PLUS_MINUS")}
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return templates


def _template(name: str) -> str:
    """Return a template without line breaks between elements: a report has thousands of them."""
    return re.sub(r"(?<=[>}])\n+(?=[<{])", "", asset(f"templates/{name}"))


def asset(name: str) -> str:
    """Return a file of this package without comments and idle space: browsers read the page."""
    content = resources.files("onceforall.report").joinpath(name).read_text(encoding="utf-8")
    if name.endswith(".css"):
        content = re.sub(r"/\*.*?\*/", "", content, flags=re.DOTALL)
        content = re.sub(r"(?<=[{};:,])\s+|\s+(?={)", "", content)
    elif name.endswith(".js"):
        content = re.sub(r"^ *//.*\n", "", content, flags=re.MULTILINE)
    return re.sub(r"^[ \t]+|^\n", "", content, flags=re.MULTILINE)


def _first_selection(run: Run) -> int | None:
    """Return the model to take under the run's limits; where none is known to, the fastest."""
    cards = [model.card for model in run.models]
    try:
        return cards.index(choose(cards, _limits(run)).card)
    except (ConfigError, InfeasibleError):
        return 0 if cards else None


def _limits(run: Run) -> dict[str, float]:
    """Return the limits that the run was asked to keep, as far as they are numbers."""
    search = {} if run.settings is None else run.settings.config.get("search")
    limits = search.get("limits") if isinstance(search, dict) else None
    pairs = limits.items() if isinstance(limits, dict) else ()
    return {str(name): bound for name, bound in pairs if isinstance(bound, int | float)}


def _fills(model: Model, run: Path) -> dict[str, str]:
    """Return what commands and code to copy say of a model, by the name of the place.

    Paths start where the path of the run starts: where its command was given.
    """
    path = str(run / "models" / model.folder)
    return {
        "name": model.card.name,
        "shell": shlex.quote(path),
        "python": repr(path),
    }
