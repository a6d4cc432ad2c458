"""Where the names of marks go: beside them, and never over one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Size of a plot that labels are laid out for, and of a character, all in pixels. Narrower plots
# hide the labels.
PLOT_SIZE = (600.0, 380.0)
_CHARACTER = 6.7
_LINE = 14.0
_MARK = 11.0
_MAX_CHARACTERS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A label and where it starts, relative to its mark.

    Attributes:
        text: The name, cut where it is long.
        dx: Pixels to the right.
        dy: Pixels down, to the baseline.
        anchor: ``start``, ``middle`` or ``end``.
    """

    text: str
    dx: float
    dy: float
    anchor: str


_Box = tuple[float, float, float, float]
# Tried in this order: (anchor, dx, dy). Below right and above left lie off a rising front.
_PLACES = (
    ("start", 11.0, 16.0),
    ("end", -11.0, -8.0),
    ("start", 16.0, 4.0),
    ("middle", 0.0, 24.0),
    ("middle", 0.0, -15.0),
    ("end", -15.0, 4.0),
)


def place_labels(
    names: Sequence[str],
    places: Sequence[tuple[float, float]],
    *,
    obstacles: Sequence[tuple[float, float]] = (),
) -> tuple[Label | None, ...]:
    """Return a label for each mark that has room for one, None for the others.

    Args:
        names: Name of each mark; earlier ones are served first.
        places: Their places, in percents of the plot from the left and from the top.
        obstacles: Other places that names keep off where they can.
    """
    centres = [_pixels(place) for place in places]
    taken: list[_Box] = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in centres]
    avoided: list[_Box] = [(x - 2, y - 2, x + 2, y + 2) for x, y in map(_pixels, obstacles)]
    labels: list[Label | None] = []
    for index, (name, centre) in enumerate(zip(names, centres, strict=True)):
        short = name if len(name) <= _MAX_CHARACTERS else name[: _MAX_CHARACTERS - 1] + "\u2026"
        others = taken[:index] + taken[index + 1 :]
        label = _first_free(short, centre, [*others, *avoided]) or _first_free(
            short, centre, others
        )
        if label is not None:
            taken.append(_box(label, centre))
        labels.append(label)
    return tuple(labels)


def _first_free(text: str, centre: tuple[float, float], others: Sequence[_Box]) -> Label | None:
    """Return the first label that lies in the plot and touches nothing."""
    for anchor, dx, dy in _PLACES:
        label = Label(text=text, dx=dx, dy=dy, anchor=anchor)
        box = _box(label, centre)
        inside = box[0] >= 0 and box[2] <= PLOT_SIZE[0] + 8 and box[3] <= PLOT_SIZE[1]
        if inside and not any(_touch(box, other) for other in others):
            return label
    return None


def _box(label: Label, centre: tuple[float, float]) -> _Box:
    length = len(label.text) * _CHARACTER
    left = centre[0] + label.dx - {"start": 0.0, "middle": length / 2, "end": length}[label.anchor]
    return left, centre[1] + label.dy - _LINE + 3, left + length, centre[1] + label.dy + 4


def _pixels(place: tuple[float, float]) -> tuple[float, float]:
    return place[0] / 100 * PLOT_SIZE[0], place[1] / 100 * PLOT_SIZE[1]


def _touch(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
