"""The models before and after fine-tuning, as the rows of a table."""

from __future__ import annotations

from dataclasses import dataclass

from onceforall.artifacts import Card
from onceforall.genes import Axis, values_of
from onceforall.report import numbers
from onceforall.report.run_folder import Run

_AXES: tuple[Axis, ...] = ("kernel_size", "depth", "expand_ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A model before and after fine-tuning.

    Attributes:
        before: Card of the model.
        after: Card of what became of it.
        place: ``(k, d, w)`` of a network with one choice everywhere.
    """

    before: Card
    after: Card
    place: str

    @property
    def gain(self) -> str:
        """Return what it gained, in points of top-1."""
        return numbers.typeset(f"{100 * (self.after.top1 - self.before.top1):+.2f}")


def tuned_rows(run: Run) -> list[Tuned]:
    """Return the models that were fine-tuned, smallest first; none where none was."""
    by_name = {model.card.name: model.card for model in run.models}
    cards = sorted(by_name.values(), key=lambda card: card.macs)
    return [
        Tuned(before=before, after=after, place=_place(before))
        for after in cards
        if (before := by_name.get(after.finetuned_from or "")) is not None
    ]


def _place(card: Card) -> str:
    found = [values_of(card.arch, axis) for axis in _AXES]
    if any(len(values) != 1 for values in found):
        return numbers.NOTHING
    return f"({', '.join(f'{values[0]:g}' for values in found)})"
