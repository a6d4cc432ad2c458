"""The table of all models; the script makes its columns sortable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onceforall.report import numbers
from onceforall.report.markup import Markup, element
from onceforall.report.model_panel import short_badge
from onceforall.report.records import Model, number, section
from onceforall.report.run_folder import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """One column.

    Attributes:
        title: Its heading.
        value: Number to sort by, or None where unknown.
        words: Its text, from the number.
        note: Smaller text behind it.
    """

    title: str
    value: Callable[[Model], float | None]
    words: Callable[[float | None], str]
    note: Callable[[Model], str] = lambda model: ""


def _spread(model: Model) -> str:
    mad = number(model.card, "latency_mad_ms")
    return (
        "" if mad is None else f"{numbers.PLUS_MINUS}{numbers.SPACE}{numbers.significant(mad, 2)}"
    )


def _onnx_bytes(model: Model) -> float | None:
    return number(section(section(model.card, "files"), "model.onnx"), "bytes")


def _pixels(value: float | None) -> str:
    return numbers.NOTHING if value is None else f"{value:.0f}{numbers.SPACE}px"


_COLUMNS = (
    _Column(title="Top-1", value=lambda m: m.subnet.top1, words=numbers.percent),
    _Column(
        title="Latency",
        value=lambda m: m.subnet.costs.get("latency_ms"),
        words=numbers.milliseconds,
        note=_spread,
    ),
    _Column(title="MACs", value=lambda m: m.subnet.costs.get("macs"), words=numbers.count),
    _Column(title="Params", value=lambda m: m.subnet.costs.get("params"), words=numbers.count),
    _Column(title="Input", value=lambda m: m.resolution, words=_pixels),
    _Column(title="ONNX", value=_onnx_bytes, words=numbers.data_size),
)


def model_table(run: Run, selected: int | None) -> Markup:
    """Return the table of all models, fastest first.

    Args:
        run: The run; it has at least one model.
        selected: Index of the model that is selected at first.
    """
    columns = [c for c in _COLUMNS if any(c.value(m) is not None for m in run.models)]
    heads = [_head("Model", number_column=False)]
    heads += [_head(column.title, number_column=True) for column in columns]
    heads.append(_head("Verified", number_column=False))
    rows = (
        _row(model, index, columns, selected=index == selected)
        for index, model in enumerate(run.models)
    )
    table = element(
        "table",
        {"class": "models", "id": "models"},
        element("caption", {"class": "hidden"}, "All models, with measured figures"),
        element("thead", None, element("tr", None, *heads)),
        element("tbody", None, *rows),
    )
    return element(
        "div",
        {"class": "scroll", "tabindex": 0, "role": "region", "aria-label": "All models"},
        table,
    )


def _head(title: str, *, number_column: bool) -> Markup:
    return element("th", {"scope": "col", "class": "n" if number_column else None}, title)


def _row(model: Model, index: int, columns: list[_Column], *, selected: bool) -> Markup:
    name = element("a", {"href": f"#m{index}"}, model.name)
    cells = [element("th", {"scope": "row", "data-v": model.name}, name)]
    for column in columns:
        value, note = column.value(model), column.note(model)
        small = element("small", None, f" {note}") if note and value is not None else None
        cells.append(
            element(
                "td",
                {"class": "n", "data-v": None if value is None else f"{value:.10g}"},
                column.words(value),
                small,
            )
        )
    cells.append(element("td", {"data-v": int(model.verified)}, short_badge(model)))
    return element("tr", {"data-m": index, "aria-current": "true" if selected else None}, *cells)
