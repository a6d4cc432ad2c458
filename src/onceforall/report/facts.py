"""The facts of a run in words: what was asked, what came out, where the time went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from onceforall.report import numbers
from onceforall.report.markup import Markup, element, join
from onceforall.report.model_panel import target_words
from onceforall.report.records import Model, number, section, sequence, text
from onceforall.report.run_folder import Run

_MAX_CLASSES = 120
_SUPERSCRIPTS = str.maketrans(
    "0123456789", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)
_MAX_CLASS_CHARACTERS = 60


def title(run: Run) -> str:
    """Return the name of the data set, or of the run where it is not known."""
    data = section(run.settings, "data")
    source = text(data, "source") or text(section(run.settings, "request"), "source") or ""
    return text(data, "name") or PurePath(source).name or run.name


def headline(run: Run) -> str:
    """Return the result in one sentence."""
    if not run.models:
        return "No model has been exported yet."
    verified = [model for model in run.models if model.verified]
    shown = verified or list(run.models)
    start = f"{numbers.plural(len(shown), 'verified model' if verified else 'unverified model')}"
    top1 = [m.subnet.top1 for m in shown if m.subnet.top1 is not None]
    latency = [m.subnet.costs["latency_ms"] for m in shown if "latency_ms" in m.subnet.costs]
    parts = [start]
    if top1:
        low, high = numbers.percent(min(top1)), numbers.percent(max(top1))
        parts.append(f"{numbers.span(low, high)} top-1{_noise(shown)}")
    if latency:
        low, high = numbers.milliseconds(min(latency)), numbers.milliseconds(max(latency))
        device = _device(run)
        parts.append(numbers.span(low, high) + (f" on {device}" if device else ""))
    sentence = ", ".join(parts) + "."
    if verified and len(verified) < len(run.models):
        failed = len(run.models) - len(verified)
        sentence += f" {numbers.plural(failed, 'more model')} did not pass the checks."
    return sentence


def key_facts(run: Run) -> Markup:
    """Return the facts under the headline."""
    classes = class_names(run)
    num_classes = number(section(run.settings, "data"), "classes") or len(classes) or None
    seed = run.settings.get("seed")
    total = sum(seconds for _, seconds in run.steps)
    versions = section(run.settings, "versions")
    ours = [f"{name} {versions[name]}" for name in ("onceforall", "torch") if name in versions]
    facts = (
        ("Data set", title(run)),
        ("Classes", None if num_classes is None else f"{int(num_classes):,}"),
        ("Images", _images(run)),
        ("Device", _device(run)),
        ("Total time", numbers.duration(total) if run.steps else None),
        ("Seed", None if seed is None else str(seed)),
        ("Software", ", ".join(ours) or None),
    )
    return _grid((name, value) for name, value in facts if value)


def class_names(run: Run) -> tuple[str, ...]:
    """Return the names of the classes, from the first card that has them."""
    lists = (sequence(model.card, "classes") for model in run.models)
    return next((tuple(map(str, names)) for names in lists if names), ())


def time_bars(run: Run) -> Markup | None:
    """Return where the time went, one bar for each step of the job."""
    if not run.steps:
        return None
    total = sum(seconds for _, seconds in run.steps) or 1.0
    rows = []
    for name, seconds in run.steps:
        share = seconds / total
        style = {"class": "time-bar", "style": f"--w:{share:.4g}"}
        rows.append(
            element(
                "li",
                None,
                element("span", {"class": "time-name"}, name),
                element("span", style, element("i")),
                element("span", {"class": "time-value"}, numbers.duration(seconds)),
            )
        )
    return element("ol", {"class": "times"}, *rows)


def search_facts(run: Run) -> Markup | None:
    """Return what the search and the predictor say about themselves."""
    search, predictor = run.search, run.predictor
    rows: list[tuple[str, str]] = []
    if (size := number(run.settings, "space_size")) is not None:
        rows.append(("Search space", f"{_magnitude(size)} subnets"))
    if run.samples:
        rows.append(("Evaluated", numbers.plural(len(run.samples), "subnet")))
    if run.front:
        rows.append(("Front", numbers.plural(len(run.front), "point")))
    objectives = ", ".join(numbers.fact_name(str(o)) for o in sequence(search, "objectives"))
    if objectives:
        rows.append(("Objectives", objectives))
    for key, name in (("evaluations", "Subnets scored"), ("seconds", "Search time")):
        if (value := number(search, key)) is not None:
            rows.append((name, numbers.fact_value(key, value)))
    known = (
        ("kendall_tau", "Kendall tau, held out", lambda v: f"{v:.3f}"),
        ("rmse", "RMSE, held out", lambda v: f"{100 * v:.2f} points of top-1"),
        ("interval_coverage", "Inside their 90 % interval", numbers.percent),
        ("num_train", "Subnets to learn from", numbers.count),
        ("num_test", "Subnets held out", numbers.count),
    )
    for key, name, words in known:
        if (value := number(predictor, key)) is not None:
            rows.append((name, words(value)))
    return _grid(rows) if rows else None


def latency_section(run: Run) -> Markup | None:
    """Return the measured tables: device, entries, error on unseen subnets, and the method."""
    if not run.latency:
        return None
    parts = []
    for name, table in run.latency:
        hardware = section(table, "hardware")
        shown = {k: v for k, v in {**hardware, **table}.items() if _is_scalar(v) and k != "format"}
        rows = [(numbers.fact_title(k), _scalar(k, v)) for k, v in shown.items()]
        if blocks := sequence(table, "table"):
            rows.append(("Table", numbers.plural(len(blocks), "measured block")))
        report = section(table, "report")
        for key, title, words in _LATENCY_REPORT:
            if (figure := number(report, key)) is not None:
                rows.append((title, words(figure)))
        parts.append(element("h3", None, name.removesuffix(".json")))
        parts.append(_grid(rows))
    parts.append(element("p", {"class": "note"}, _METHOD))
    return element("div", None, *parts)


def provenance(run: Run) -> Markup | None:
    """Return how the run was made: time, data, hardware, versions, configuration, classes."""
    parts: list[Markup] = []
    for key, name in (("data", "Data set"), ("hardware", "Hardware"), ("versions", "Versions")):
        record = section(run.settings, key)
        # Versions are of packages, and those have names.
        named = str if key == "versions" else numbers.fact_title
        rows = [(named(k), _scalar(k, v)) for k, v in record.items() if _is_scalar(v)]
        if rows:
            parts.append(element("div", None, element("h3", None, name), _list(rows)))
    times = time_bars(run)
    if times is not None:
        parts.insert(0, element("div", {"class": "wide"}, element("h3", None, "Time"), times))
    blocks = [element("div", {"class": "columns"}, *parts)] if parts else []
    classes = class_names(run)
    if classes:
        blocks.append(_details(numbers.plural(len(classes), "class", "classes"), _classes(classes)))
    settings = {
        key: value
        for key, value in run.settings.items()
        if key not in ("data", "hardware", "versions")
    }
    if settings:
        # JSON types only: what PyYAML cannot write plainly is written as text.
        dumped = yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True)
        code = element("pre", {"tabindex": 0}, element("code", None, dumped))
        blocks.append(_details("Resolved configuration (run.yaml)", code))
    return join(blocks) if blocks else None


_LATENCY_REPORT: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("median_error", "Error, unseen networks", numbers.percent),
    ("p90_error", "Error, 90th percentile", numbers.percent),
    ("noise", "Noise of measuring", numbers.percent),
    ("kendall_tau", "Kendall tau", lambda v: f"{v:.3f}"),
    ("macs_kendall_tau", "Kendall tau of MACs alone", lambda v: f"{v:.3f}"),
    ("num_networks", "Networks measured", numbers.count),
)
_METHOD = (
    "Candidates are timed in interleaved passes, in a new order each time, after warm-up and with "
    "a fixed number of threads. A small reference network is timed between them and takes the "
    "drift of the machine out. A latency is the median; its spread is the median absolute "
    "deviation (MAD) and the 90th percentile (p90)."
)


def _noise(models: Sequence[Model]) -> str:
    """Return the widest noise of the models' top-1, with the images behind it."""
    shares = [share for model in models if (share := model.share) is not None]
    if not shares:
        return ""
    widest = max(shares, key=lambda share: share.half_width)
    _, plus_minus, noise = numbers.share(widest).partition(numbers.PLUS_MINUS)
    images = numbers.plural(widest.count, "test image")
    return f" ({plus_minus}{noise} or less, {images})"


def _device(run: Run) -> str | None:
    """Return the device that latency was measured on, with its threads."""
    for model in run.models:
        words = target_words(model)
        if words is not None:
            device, _, rest = words.partition(", ")
            threads = rest.partition(", ")[0]
            return f"{device} ({threads})" if "thread" in threads else device
    hardware = section(run.settings, "hardware")
    return text(hardware, "device") or text(hardware, "cpu")


def _images(run: Run) -> str | None:
    data = section(run.settings, "data")
    parts = []
    for key, name in (("train", "train"), ("valid", "validation"), ("test", "test")):
        if (value := number(data, key)) is not None:
            parts.append(f"{int(value):,} {name}")
    if not parts and run.models and (images := number(run.models[0].card, "images")) is not None:
        parts.append(f"{int(images):,} test")
    return ", ".join(parts) or None


def _magnitude(value: float) -> str:
    """Return a count that may be astronomical."""
    if value < 1e6:
        return f"{value:,.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e+")
    raised = str(int(exponent)).translate(_SUPERSCRIPTS)
    return f"{mantissa}{numbers.SPACE}\u00d7{numbers.SPACE}10{raised}"


def _classes(names: tuple[str, ...]) -> Markup:
    short = (
        name if len(name) <= _MAX_CLASS_CHARACTERS else name[: _MAX_CLASS_CHARACTERS - 1] + "\u2026"
        for name in names[:_MAX_CLASSES]
    )
    items = [element("li", None, name) for name in short]
    if len(names) > _MAX_CLASSES:
        items.append(element("li", None, f"and {len(names) - _MAX_CLASSES:,} more"))
    return element("ul", {"class": "classes"}, *items)


def _details(summary: str, content: Markup) -> Markup:
    return element("details", None, element("summary", None, summary), content)


def _list(rows: Iterable[tuple[str, str]]) -> Markup:
    pairs = (join((element("dt", None, k), element("dd", None, v))) for k, v in rows)
    return element("dl", {"class": "facts"}, *pairs)


def _grid(rows: Iterable[tuple[str, str]]) -> Markup:
    """Return facts side by side, each value under its name."""
    cells = (element("div", None, element("dt", None, k), element("dd", None, v)) for k, v in rows)
    return element("dl", {"class": "fact-grid"}, *cells)


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float)


def _scalar(key: str, value: object) -> str:
    return numbers.fact_value(key, value)[:300]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
