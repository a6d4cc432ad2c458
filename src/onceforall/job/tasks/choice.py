"""The shipped model of a run to take under limits, and what is said of it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onceforall.errors import CheckpointError, ConfigError, InfeasibleError
from onceforall.job.folder import RunFolder
from onceforall.measure.choice import Choice, Gain, choose
from onceforall.measure.comparison import top1_in_percent
from onceforall.search.limits import check_limits, each_limit, limit_words

# Of what looser limits would gain, so much is told: the nearest steps.
_MOST_GAINS = 3


def choose_models(folder: RunFolder, limits: Mapping[str, Sequence[float]]) -> list[Choice]:
    """Return the shipped model to take, for each bound of the limit that has several.

    Raises:
        ConfigError: If the folder is no run, has no models, or a limit is of no known cost.
        InfeasibleError: If no model keeps the limits.
    """
    folder.read_settings()
    wanted = each_limit(limits)
    for bounds in wanted:
        check_limits(bounds)
    cards = folder.read_cards()
    if not cards:
        raise ConfigError(f"{folder.path} has no models yet: run  ofa run")
    return [choose(cards, bounds) for bounds in wanted]


@contextmanager
def naming_shipped(folder: RunFolder, limits: Mapping[str, float]) -> Iterator[None]:
    """Add to what is said of a limit that no subnet is predicted to keep the model that does.

    Raises:
        InfeasibleError: If one was raised inside, with more words.
    """
    try:
        yield
    except InfeasibleError as error:
        try:
            choice = choose(folder.read_cards(), limits)
        except (CheckpointError, ConfigError, InfeasibleError):
            raise error from None
        bounds = " ".join(f"--limit {name}={bound!r}" for name, bound in limits.items())
        raise InfeasibleError(
            f"{error}; that is predicted: {choice.card.name}, shipped, keeps it as measured: "
            f"ofa choose {shlex.quote(str(folder.path))} {bounds}"
        ) from error


def choice_lines(choice: Choice, run: Path) -> list[str]:
    """Return what a person wants to know: the model, how good it is, what more would gain."""
    card = choice.card
    images = "" if card.images is None else f" on {card.images} test images"
    lines = [
        f"{limit_words(choice.limits)}: {card.name}, test top-1 {top1_in_percent(card)}{images}, "
        f"{card.latency_ms:.3f} +- {card.latency_mad_ms:.3f} ms, {card.macs / 1e6:.3g} M MACs",
        f"  chosen by validation top-1, {100 * (card.valid_top1 or 0):.1f} %",
    ]
    lines += [f"  {_gain(gain)}" for gain in choice.gains[:_MOST_GAINS]]
    if not choice.gains:
        lines.append("  no shipped model is better on validation images, whatever it costs")
    if choice.left_out:
        lines.append(f"  left out, no validation top-1: {', '.join(choice.left_out)}")
    return [*lines, f"  use it:  ofa.load_model({str(run / 'models' / card.name)!r})"]


def choice_json(choice: Choice) -> dict[str, Any]:
    """Return a JSON object."""
    return {
        "limits": dict(choice.limits),
        "model": choice.card.to_json(),
        "gains": [
            {
                "name": gain.card.name,
                "limits": dict(gain.limits),
                "points": round(gain.points, 3),
                "beyond_noise": gain.is_clear,
            }
            for gain in choice.gains
        ],
        "left_out": list(choice.left_out),
    }


def _gain(gain: Gain) -> str:
    noise = "beyond noise" if gain.is_clear else "within noise"
    looser = {name: rounded_up(taken) for name, taken in gain.limits.items()}
    return (
        f"with {limit_words(looser)}: {gain.card.name}, {top1_in_percent(gain.card)}, "
        f"{gain.points:+.1f} points of test top-1, {noise}"
    )


def rounded_up(value: float) -> float:
    """Return a positive number of four digits that is no smaller: a limit that is kept."""
    digits = 3 - math.floor(math.log10(value))
    return math.ceil(value * 10.0**digits) / 10.0**digits
