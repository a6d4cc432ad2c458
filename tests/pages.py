"""Running what the pages show: Python as it stands, commands after a ``$`` in this process."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cli.command import ofa

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """A fenced block of a page.

    Attributes:
        language: What stands behind the fence.
        text: Its lines.
        line: Number of the first of them.
    """

    language: str
    text: str
    line: int


def fences(page: Path) -> list[Fence]:
    """Return the fenced blocks of a page."""
    source = page.read_text()
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", source, re.DOTALL | re.MULTILINE)
    return [
        Fence(
            language=match.group(1),
            text=match.group(2),
            line=source.count("\n", 0, match.start(2)) + 1,
        )
        for match in found
    ]


def is_run(page: Path) -> bool:
    """Return whether a page has something to run."""
    return any(fence.language in ("python", "console") for fence in fences(page))


def run_page(page: Path, *, replaced: Mapping[str, str], more: Mapping[str, Sequence[str]]) -> str:
    """Run the blocks of a page one after the other, in the current folder.

    Args:
        page: The page.
        replaced: Texts of Python blocks and what runs in their place.
        more: Further arguments of commands that begin so.

    Returns:
        What the commands said.
    """
    names: dict[str, object] = {}
    said = []
    for fence in fences(page):
        if fence.language == "python":
            text = fence.text
            for long, short in replaced.items():
                text = text.replace(long, short)
            exec(compile("\n" * (fence.line - 1) + text, str(page), "exec"), names)
        elif fence.language == "console":
            for command in commands_of(fence.text):
                extra = [
                    a for start, args in more.items() if command.startswith(start) for a in args
                ]
                answer = ofa(*map(_existing, shlex.split(command)[1:]), *extra)
                assert answer.status == 0, f"{page.name}: $ {command}\n{answer.err}"
                said.append(answer.out)
    return "".join(said)


def _existing(word: str) -> str:
    """Return a path whose model is that of a shown run, ``net01-...``, as this run calls it."""
    place = Path(word if "/" in word else f"runs/digits/models/{word}")
    shown = re.fullmatch(r"(net\d+)-.*", place.name)
    if shown is None or not place.parent.is_dir():
        return word
    (found,) = place.parent.glob(f"{shown[1]}*")
    return str(found) if "/" in word else found.name


def commands_of(text: str) -> list[str]:
    """Return the commands behind a ``$``."""
    return re.findall(r"^\$ (.*)$", text.replace("\\\n", " "), re.MULTILINE)


def shown_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of every ``ofa`` command that a page shows, run or not."""
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"^(?: {4}|\$ )(?:.*(?<=[ $/]))?ofa (.*)$", text, re.MULTILINE):
        bare = re.split(r" (?:#|\||&&|>) ?", line)[0]
        yield shlex.split(bare)
    for line in re.findall(r"^ {4}.*-m onceforall (.*)$", text, re.MULTILINE):
        yield shlex.split(line.replace(" ...", ""))
