"""HTML as values: text is escaped unless it is already markup.

Everything that a user can name (data sets, classes, folders) passes through :func:`element`, so
there is one place where escaping happens and none where it can be forgotten.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

Attribute = str | int | float | bool | None

_PLAIN = re.compile(r"[\w.:%#,;()-]+", re.ASCII).fullmatch
_VOID = frozenset(("br", "col", "hr", "input", "meta", "wbr"))
_SVG_LEAVES = frozenset(("circle", "line", "path", "rect", "use"))


class Markup(str):
    """A string that is HTML and needs no escaping."""

    __slots__ = ()


def element(
    tag: str, attributes: Mapping[str, Attribute] | None = None, *children: str | None
) -> Markup:
    """Return one element.

    Args:
        tag: Name of the element.
        attributes: Values by name; None and False leave the attribute out, True writes its bare
            name. Values are escaped.
        children: Contents; plain strings are escaped, :class:`Markup` is kept, None is left out.
    """
    opening = "".join((tag, *(_attribute(n, v) for n, v in (attributes or {}).items())))
    if tag in _VOID:
        return Markup(f"<{opening}>")
    content = join(children)
    if tag in _SVG_LEAVES and not content:
        # The space keeps the slash out of an attribute without quotes.
        return Markup(f"<{opening} />")
    return Markup(f"<{opening}>{content}</{tag}>")


def join(children: Iterable[str | None]) -> Markup:
    """Return the children one after the other; plain strings are escaped, None is left out."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else html.escape(child, quote=False)
            for child in children
            if child is not None
        )
    )


def script_json(value: Any) -> Markup:
    """Return JSON that is safe inside a script element, whatever strings it holds.

    ``<``, ``>`` and ``&`` are written as escapes, so neither ``</script>`` nor ``<!--`` can occur;
    everything outside ASCII is escaped too.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    written = f"{value:g}" if isinstance(value, float) else str(value)
    # Quotes only where HTML needs them: a report has ten thousand attributes.
    return f" {name}={written}" if _PLAIN(written) else f' {name}="{html.escape(written)}"'
