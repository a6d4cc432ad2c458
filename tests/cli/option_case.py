"""A case of an option: two commands that show that it is used, and one that is refused.

A command is a verb and its words; words in braces are places (see ``places.py``). ``{out}`` is a
folder that is not there yet, ``{copy}`` and ``{copy_b}`` are fresh copies of the runs.
"""

from __future__ import annotations

from dataclasses import dataclass

Command = tuple[str, ...]
NO_RUN = "is not the folder of a run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How an option is known to be used.

    Attributes:
        base: A command.
        other: The same with another value of the option.
        seen: What differs between the two; a name in ``observed.py``.
        wrong: A command with a value that is refused; empty for flags, which have no value.
        says: Part of the line that refuses it.
    """

    base: Command
    other: Command
    seen: str = "output"
    wrong: Command = ()
    says: str = ""


def add(
    base: Command, *more: str, seen: str = "output", wrong: Command = (), says: str = ""
) -> Case:
    """Return the case of an option that ``more`` adds to a command, ``wrong`` wrongly."""
    refused = (*base, *wrong) if wrong else ()
    return Case(base=base, other=(*base, *more), seen=seen, wrong=refused, says=says)


def swap(base: Command, *words: str, seen: str = "output", wrong: str = "", says: str = "") -> Case:
    """Return the case of a value ``words[0]`` that becomes ``words[1]``, and so on in pairs."""
    other, refused = list(base), list(base)
    for old, new in zip(words[::2], words[1::2], strict=True):
        other[other.index(old)] = new
    refused[refused.index(words[0])] = wrong
    refusal = tuple(refused) if wrong else ()
    return Case(base=base, other=tuple(other), seen=seen, wrong=refusal, says=says)


def without(command: Command, *words: str) -> Command:
    """Return a command without some consecutive words."""
    for start in range(len(command)):
        if command[start : start + len(words)] == words:
            return command[:start] + command[start + len(words) :]
    raise ValueError(f"{words} are not in {command}")
