"""The table of shipped models before and after fine-tuning: CSV and terminal."""

from __future__ import annotations

import csv
import io
from typing import Any

from onceforall.artifacts import Card
from onceforall.files import write_text
from onceforall.genes import Axis, values_of
from onceforall.job.closing_table import lines_of_columns, model_table
from onceforall.job.context import Run
from onceforall.job.folder import RunFolder
from onceforall.measure.choice import is_clearly_better

_AXES: tuple[Axis, ...] = ("kernel_size", "depth", "expand_ratio")


def tuned_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """Return one row for each shipped model, and where it was fine-tuned each time.

    ``model``, ``kernel_size``, ``depth`` and ``expand_ratio`` (empty where blocks differ),
    ``resolution``, ``macs``, ``params``, ``top1_before``, ``top1_after`` (fractions of the test
    images; after is None where it was not fine-tuned) and ``finetune_epochs``.
    """
    cards = folder.read_cards()
    rows = []
    for card in cards:
        if card.finetuned_from is not None:
            continue
        after = [each for each in cards if each.finetuned_from == card.name]
        after.sort(key=lambda each: each.finetune_epochs or 0)
        rows += [_row(card, each) for each in after] or [_row(card, None)]
    return rows


def _row(card: Card, after: Card | None) -> dict[str, Any]:
    values = {axis: values_of(card.arch, axis) for axis in _AXES}
    return {
        "model": card.name,
        **{axis: found[0] if len(found) == 1 else "" for axis, found in values.items()},
        "resolution": card.resolution,
        "macs": card.macs,
        "params": card.params,
        "top1_before": card.top1,
        "top1_after": None if after is None else after.top1,
        "finetune_epochs": None if after is None else after.finetune_epochs,
    }


def write_tuned(run: Run) -> None:
    """Write the table to ``finetuned.csv`` of the run."""
    rows, text = tuned_rows(run.folder), io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(run.folder.tuned, text.getvalue())


def tuned_lines(folder: RunFolder) -> list[str]:
    """Return the table as lines for people, and where it lies."""
    rows = tuned_rows(folder)
    if not rows:
        return []
    columns = [
        ["(k, d, w)", *(_place(row) for row in rows)],
        ["MACs", *(f"{row['macs'] / 1e6:.2f} M" for row in rows)],
        ["params", *(f"{row['params'] / 1e3:.1f} k" for row in rows)],
        ["top-1 before", *(f"{row['top1_before'] * 100:.2f} %" for row in rows)],
        ["after", *(_percent(row["top1_after"]) for row in rows)],
        ["epochs", *(str(row["finetune_epochs"] or "") for row in rows)],
    ]
    return [*lines_of_columns(columns, left=set()), "", f"table:   {folder.tuned}"]


def before_and_after(folder: RunFolder, tuned: Card) -> list[str]:
    """Return the table of a fine-tuned model and the one that it was, and what was gained."""
    before = Card.read(folder.card(tuned.finetuned_from or tuned.name))
    is_clear = is_clearly_better(tuned, before) or is_clearly_better(before, tuned)
    gain = f"{100 * (tuned.top1 - before.top1):+.1f} points of test top-1"
    noise = "beyond noise" if is_clear else "within noise"
    return [*model_table([before, tuned]), "", f"{gain}, {noise}"]


def _place(row: dict[str, Any]) -> str:
    values = [row[axis] for axis in _AXES]
    return row["model"] if "" in values else f"({', '.join(f'{v:g}' for v in values)})"


def _percent(top1: float | None) -> str:
    return "" if top1 is None else f"{top1 * 100:.2f} %"
