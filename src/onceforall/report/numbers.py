"""Figures for people: few digits, the unit behind a space that does not break."""

from __future__ import annotations

import math

from onceforall.measure.proportion import Share

SPACE = "\u00a0"
DASH = "\u2013"
PLUS_MINUS = "\u00b1"
NOTHING = "\u2014"

_SUPERSCRIPTS = str.maketrans(
    "0123456789", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)
_ACRONYMS = {"cpu": "CPU", "gpu": "GPU", "macs": "MACs", "onnx": "ONNX", "rmse": "RMSE"}


def significant(value: float, digits: int = 3) -> str:
    """Return ``value`` with this many significant digits, never with an exponent above 1e-4."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent > 12:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - exponent)
    written = f"{value:.{decimals}f}"
    # 0.9996 rounds up to 1.000, which has one digit too many.
    if decimals and math.floor(math.log10(abs(float(written)))) > exponent:
        written = f"{value:.{decimals - 1}f}"
    return written


def percent(fraction: float | None, digits: int = 1) -> str:
    """Return for example ``97.5 %`` for 0.975."""
    return NOTHING if fraction is None else f"{100 * fraction:.{digits}f}{SPACE}%"


def milliseconds(value: float | None) -> str:
    """Return for example ``1.24 ms``."""
    return NOTHING if value is None else f"{significant(value)}{SPACE}ms"


def count(value: float | None) -> str:
    """Return for example ``3.21 M`` for 3,210,000."""
    return NOTHING if value is None else _scaled(value, 1000, ("", "k", "M", "G", "T"))


def data_size(value: float | None) -> str:
    """Return bytes as for example ``1.24 MB`` (powers of 1000)."""
    return NOTHING if value is None else _scaled(value, 1000, ("B", "kB", "MB", "GB", "TB"))


def duration(seconds: float | None) -> str:
    """Return for example ``8.4 s``, ``3 min 5 s`` or ``2 h 10 min``."""
    if seconds is None:
        return NOTHING
    if seconds < 59.95:
        return f"{significant(seconds, 2)}{SPACE}s"
    whole = round(seconds)
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes}{SPACE}min" + (f" {rest}{SPACE}s" if rest else "")
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours}{SPACE}h" + (f" {minutes}{SPACE}min" if minutes else "")


def span(low: str, high: str) -> str:
    """Return two written figures of the same unit as a range, the unit once."""
    if low == high:
        return low
    first, _, first_unit = low.rpartition(SPACE)
    last, _, last_unit = high.rpartition(SPACE)
    if first_unit == last_unit:
        return f"{first}{DASH}{last}{SPACE}{last_unit}"
    return f"{low}{DASH}{high}"


def plural(number: int, noun: str, nouns: str | None = None) -> str:
    """Return for example ``1 model`` or ``5 models``; thousands are split by commas."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def fact_name(key: str) -> str:
    """Return a key of a record as words: ``p90_relative_error`` -> ``p90 relative error``."""
    words = key
    for unit in ("_ms", "_bytes", "_s"):
        words = words.removesuffix(unit)
    shown = words.removeprefix("num_").split("_")
    return " ".join(_ACRONYMS.get(word, word) for word in shown)


def fact_title(key: str) -> str:
    """Return a key of a record as words that stand alone: ``cpu_threads`` -> ``CPU threads``."""
    words = fact_name(key)
    return words[:1].upper() + words[1:]


def fact_value(key: str, value: object) -> str:
    """Return any scalar of a record in words; its key tells the unit."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: NOTHING}[value]
    if not isinstance(value, int | float):
        return str(value)
    if key.endswith("_ms"):
        return milliseconds(value)
    if key.endswith("_bytes") or key == "bytes":
        return data_size(value)
    if key.endswith("_s") or key == "seconds":
        return duration(value)
    if ("relative" in key or key.endswith(("coverage", "_share"))) and abs(value) >= 1e-4:
        return percent(value)
    return f"{value:,}" if isinstance(value, int) else significant(value)


def share(counted: Share) -> str:
    """Return for example ``98.3 \u00b1 1.4 %``, no finer than the 95 % interval justifies."""
    return typeset(counted.in_percent())


def interval(counted: Share) -> str:
    """Return the 95 % interval of a share, for example ``96.4\u201399.2 %``."""
    low, high = counted.interval
    return span(percent(low), percent(high))


def top1(counted: Share | None, fraction: float) -> str:
    """Return a top-1 with its noise; alone where the images that it was counted on are unknown."""
    return percent(fraction) if counted is None else share(counted)


def magnitude(value: float) -> str:
    """Return a count that may be astronomical."""
    if value < 1e6:
        return f"{value:,.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e+")
    return f"{mantissa}{SPACE}\u00d7{SPACE}10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def typeset(words: str) -> str:
    """Return a sentence of the terminal as a page writes it."""
    return words.replace(" +- ", f"{SPACE}{PLUS_MINUS}{SPACE}").replace(" %", f"{SPACE}%")


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    position = 0
    while abs(value) >= step * 0.9995 and position < len(units) - 1:
        value /= step
        position += 1
    whole = position == 0 and float(value).is_integer()
    written = f"{value:.0f}" if whole else significant(value)
    return f"{written}{SPACE}{units[position]}" if units[position] else written
