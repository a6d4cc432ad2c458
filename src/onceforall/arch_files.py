"""Archs in files, in every form that a verb writes or a published page shows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from onceforall.arch import Arch
from onceforall.errors import ConfigError
from onceforall.files import read_json_file
from onceforall.reading import MAX_TEXT_BYTES, parse_json
from onceforall.space import SearchSpace

_STDIN = Path("-")


def read_arch(path: Path, space: SearchSpace, *, resolution: int | None = None) -> Arch:
    """Return the arch of a JSON file.

    The file holds an arch, the published spelling of one, or what a search printed for one limit:
    an object whose ``"arch"`` is either.

    Args:
        path: The file; ``-`` is standard input.
        space: Space of the arch.
        resolution: Input side of a published spelling; by default its own, else the largest.

    Raises:
        ConfigError: If the file is no JSON or holds several archs.
        ArchError: If it holds no arch, or one outside the space.
    """
    value = _read_stdin() if path == _STDIN else read_json_file(path)
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if value == []:
        raise ConfigError(f"{path} holds no arch")
    if isinstance(value, list):
        raise ConfigError(f"{path} holds {len(value)} archs, as of a search with several bounds")
    if isinstance(value, dict) and "arch" in value:
        value = value["arch"]
    if isinstance(value, dict) and ("d" in value or "ks" in value):
        return space.from_published(value, resolution=resolution)
    return space.check(Arch.from_json(value))


def _read_stdin() -> Any:
    try:
        return parse_json(sys.stdin.read(MAX_TEXT_BYTES))
    except ValueError as error:  # no JSON, or no text
        raise ConfigError(f"standard input is not JSON: {error}") from error
