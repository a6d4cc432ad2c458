"""Names and messages on a terminal: shown, never obeyed."""

from __future__ import annotations

import unicodedata

# Control characters, invisible ones that turn text around, halves of characters, line ends.
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: object, *, keep: str = "") -> str:
    r"""Return ``text`` with what a terminal would obey written out, as ``\x1b``.

    Args:
        text: Whatever is shown, a name of a file or of a class for example.
        keep: Characters that may stay, such as the line ends of our own lines.
    """
    shown = str(text)
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(
        char if char in keep or unicodedata.category(char) not in _UNSAFE else _escaped(char)
        for char in shown
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
