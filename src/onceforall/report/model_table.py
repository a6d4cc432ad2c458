"""The table of all models; the script makes its columns sortable."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onceforall.measure.comparison import beaten_by, worth_it
from onceforall.report import numbers
from onceforall.report.markup import Markup, element, join
from onceforall.report.model_panel import short_badge, top1_words
from onceforall.report.records import Model, contenders, number, section
from onceforall.report.run_folder import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """One column.

    Attributes:
        title: Its heading.
        value: Number to sort by, or None where unknown.
        words: Its text.
        note: Smaller text behind it.
    """

    title: str
    value: Callable[[Model], float | None]
    words: Callable[[Model], str]
    note: Callable[[Model], str] = lambda model: ""


def _spread(model: Model) -> str:
    mad = number(model.card, "latency_mad_ms")
    return (
        "" if mad is None else f"{numbers.PLUS_MINUS}{numbers.SPACE}{numbers.significant(mad, 2)}"
    )


def _onnx_bytes(model: Model) -> float | None:
    return number(section(section(model.card, "files"), "model.onnx"), "bytes")


def _pixels(model: Model) -> str:
    side = model.resolution
    return numbers.NOTHING if side is None else f"{side:.0f}{numbers.SPACE}px"


def _alone(model: Model) -> float | None:
    return None if model.pair is None else model.pair.alone.value


def _alone_words(model: Model) -> str:
    return numbers.NOTHING if model.pair is None else numbers.share(model.pair.alone)


def _difference(model: Model) -> str:
    return "" if model.pair is None else model.pair.words


_COLUMNS = (
    _Column(title="Top-1", value=lambda m: m.subnet.top1, words=top1_words),
    _Column(title="Alone", value=_alone, words=_alone_words, note=_difference),
    _Column(
        title="Latency",
        value=lambda m: m.subnet.costs.get("latency_ms"),
        words=lambda m: numbers.milliseconds(m.subnet.costs.get("latency_ms")),
        note=_spread,
    ),
    _Column(
        title="MACs",
        value=lambda m: m.subnet.costs.get("macs"),
        words=lambda m: numbers.count(m.subnet.costs.get("macs")),
    ),
    _Column(
        title="Params",
        value=lambda m: m.subnet.costs.get("params"),
        words=lambda m: numbers.count(m.subnet.costs.get("params")),
    ),
    _Column(title="Input", value=lambda m: m.resolution, words=_pixels),
    _Column(title="ONNX", value=_onnx_bytes, words=lambda m: numbers.data_size(_onnx_bytes(m))),
)


def model_table(run: Run, selected: int | None) -> Markup:
    """Return the table of all models, fastest first, with what its figures mean below.

    Args:
        run: The run; it has at least one model.
        selected: Index of the model that is selected at first.
    """
    is_paired = any(model.pair for model in run.models)
    # With one column more there is no room for the size of a file, which the panel shows too.
    known = [c for c in _COLUMNS if not (is_paired and c.value is _onnx_bytes)]
    columns = [c for c in known if any(c.value(m) is not None for m in run.models)]
    heads = [_head("Model", number_column=False)]
    heads += [_head(column.title, number_column=True) for column in columns]
    heads.append(_head("Verified", number_column=False))
    beaten = beaten_by(contenders(run.models, "latency_ms"))
    rows = (
        _row(model, index, columns, beaten, selected=index == selected)
        for index, model in enumerate(run.models)
    )
    table = element(
        "table",
        {"class": "models paired" if is_paired else "models", "id": "models"},
        element("caption", {"class": "hidden"}, "All models, with measured figures"),
        element("thead", None, element("tr", None, *heads)),
        element("tbody", None, *rows),
    )
    scroll = element(
        "div",
        {"class": "scroll", "tabindex": 0, "role": "region", "aria-label": "All models"},
        table,
    )
    return join((scroll, _noise_note(run, bool(beaten)), _worth_note(run)))


def _noise_note(run: Run, has_beaten: bool) -> Markup | None:
    """Return what stands behind the figures of top-1."""
    counts = sorted({share.count for model in run.models if (share := model.share) is not None})
    if not counts:
        return None
    images = numbers.plural(counts[0], "test image")
    words = f"Top-1 is on {images}, {numbers.PLUS_MINUS} half of its 95{numbers.SPACE}% interval."
    if any(model.pair for model in run.models):
        words += " Alone is the same architecture trained alone, from fresh weights."
    if has_beaten:
        words += " A model is beaten if another is no slower and more accurate beyond that noise."
    return element("p", {"class": "note"}, words)


def _worth_note(run: Run) -> Markup:
    """Return whether the supernet was worth it, or how to find out."""
    pairs = [pair for model in run.models if (pair := model.pair) is not None]
    said = worth_it(pairs, num_models=len(run.models), supernet_s=run.supernet_s)
    lines = [element("p", None, numbers.typeset(line)) for line in said]
    if not lines:
        command = element("code", None, f"ofa baseline {shlex.quote(run.name)}")
        lead = "Was the supernet worth it? Not known yet: "
        tail = " trains the same architectures alone and shows them here."
        return element("p", {"class": "note"}, lead, command, tail)
    heading = element("h3", {"id": "worth"}, "Was the supernet worth it?")
    return element("section", {"class": "worth", "aria-labelledby": "worth"}, heading, *lines)


def _head(title: str, *, number_column: bool) -> Markup:
    return element("th", {"scope": "col", "class": "n" if number_column else None}, title)


def _row(
    model: Model,
    index: int,
    columns: list[_Column],
    beaten: Mapping[str, str],
    *,
    selected: bool,
) -> Markup:
    name = element("a", {"href": f"#m{index}"}, model.name)
    winner = beaten.get(model.name)
    mark = None if winner is None else element("small", {"class": "below"}, f" beaten by {winner}")
    cells = [element("th", {"scope": "row", "data-v": model.name}, name, mark)]
    for column in columns:
        value, note = column.value(model), column.note(model)
        small = element("small", None, f" {note}") if note and value is not None else None
        cells.append(
            element(
                "td",
                {"class": "n", "data-v": None if value is None else f"{value:.10g}"},
                column.words(model),
                small,
            )
        )
    cells.append(element("td", {"data-v": int(model.verified)}, short_badge(model)))
    return element("tr", {"data-m": index, "aria-current": "true" if selected else None}, *cells)
