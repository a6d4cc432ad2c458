"""The table of models before and after fine-tuning."""

from __future__ import annotations

from onceforall.genes import Axis, values_of
from onceforall.report import numbers
from onceforall.report.markup import Markup, element
from onceforall.report.records import Model, number, text
from onceforall.report.run_folder import Run

_AXES: tuple[Axis, ...] = ("kernel_size", "depth", "expand_ratio")


def tuned_table(run: Run) -> Markup | None:
    """Return the models that were fine-tuned, before and after, or None where none was."""
    by_name = {model.name: model for model in run.models}
    pairs = [
        (by_name[source], model)
        for model in run.models
        if (source := text(model.card, "finetuned_from")) in by_name
    ]
    if not pairs:
        return None
    heads = ("Model", "(k, d, w)", "MACs", "Params", "Before", "After", "Gain", "Epochs")
    table = element(
        "table",
        {"class": "models"},
        element("caption", {"class": "hidden"}, "Test top-1 before and after fine-tuning"),
        element(
            "thead", None, element("tr", None, *(_head(head, i) for i, head in enumerate(heads)))
        ),
        element("tbody", None, *(_row(before, after) for before, after in pairs)),
    )
    attributes = {"class": "scroll", "tabindex": 0, "role": "region", "aria-label": "Fine-tuning"}
    return element("div", attributes, table)  # type: ignore[arg-type]


def _head(title: str, place: int) -> Markup:
    return element("th", {"scope": "col", "class": "n" if place else None}, title)


def _row(before: Model, after: Model) -> Markup:
    first, second = before.subnet.top1, after.subnet.top1
    gain = None if first is None or second is None else 100 * (second - first)
    epochs = number(after.card, "finetune_epochs")
    cells = (
        _place(before),
        numbers.count(before.subnet.costs.get("macs")),
        numbers.count(before.subnet.costs.get("params")),
        numbers.percent(first),
        numbers.percent(second),
        numbers.NOTHING if gain is None else numbers.typeset(f"{gain:+.2f}"),
        numbers.NOTHING if epochs is None else f"{epochs:g}",
    )
    return element(
        "tr",
        None,
        element("th", {"scope": "row"}, before.name),
        *(element("td", {"class": "n"}, cell) for cell in cells),
    )


def _place(model: Model) -> str:
    """Return ``(k, d, w)`` of a network with one choice everywhere."""
    arch = model.subnet.arch
    found = [() if arch is None else values_of(arch, axis) for axis in _AXES]
    if any(len(values) != 1 for values in found):
        return numbers.NOTHING
    return f"({', '.join(f'{values[0]:g}' for values in found)})"
