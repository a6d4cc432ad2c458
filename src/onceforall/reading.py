"""Reading files that nobody vouches for: regular ones, of a bounded size, with shallow values.

Whatever a user names and whatever a run left behind may be cut, foreign or made to hurt: a link to
a file elsewhere, a pipe that never ends, a device without an end, lists nested until the
interpreter falls over. What opens a file is in one place, and so is what makes values of JSON
(and ``yaml_text``, of YAML). A file that may not be read is an OSError with its name; a text that
is no such value is a ValueError.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

# Texts: a latency model of the largest published space has 2 MB.
MAX_TEXT_BYTES = 32 * 2**20
# Logs of one object a line; weights and models.
MAX_LOG_BYTES = 2**30
MAX_BINARY_BYTES = 16 * 2**30
# Levels of a value; a run's own files have at most 8.
MAX_DEPTH = 64

_LINK = "a symbolic link, which is not followed"
_CLOSED = "is not a regular file"


@contextlib.contextmanager
def open_regular(
    path: Path, *, flags: int = os.O_RDONLY, max_bytes: int = MAX_BINARY_BYTES
) -> Iterator[BinaryIO]:
    """Open a regular file and nothing else; its last name may not be a symbolic link.

    Args:
        path: File to open. A user's own name for a file may be a link: see :func:`named`.
        flags: Of ``os.open``, which says whether it is read, appended to or made.
        max_bytes: Largest size.

    Raises:
        OSError: If it is absent, a link, a folder, a pipe, a device, or larger.
    """
    # Without O_NONBLOCK opening a pipe waits for its other end.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise OSError(errno.ELOOP, _LINK, str(path)) from error
        if error.errno == errno.ENXIO:  # a pipe without a reader, or a socket
            raise OSError(errno.EINVAL, _CLOSED, str(path)) from error
        raise
    try:
        _check_regular(path, os.fstat(descriptor), max_bytes)
    except OSError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "rb+") as file:
        yield file


def _check_regular(path: Path, facts: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, _CLOSED, str(path))
    if facts.st_size > max_bytes:
        reason = f"{facts.st_size:,} bytes, more than the {max_bytes:,} that are read"
        raise OSError(errno.EFBIG, reason, str(path))


def named(path: Path) -> Path:
    """Return where a file is that a user named: what links point to, if it is a regular file.

    For those that open files by their name themselves, such as readers of weights.

    Raises:
        OSError: If it is absent or no regular file.
    """
    found = Path(os.path.realpath(path))
    with open_regular(found):
        return found


def read_bounded(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: As :func:`open_regular`.
    """
    with open_regular(path, max_bytes=max_bytes) as file:
        return file.read(max_bytes + 1)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text, of at most ``MAX_DEPTH`` levels.

    Raises:
        ValueError: If it is none, on one line.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(too_deep()) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: {error.reason}") from error
    _check_depth(value)
    return value


def is_number(value: object, low: float, high: float) -> TypeGuard[float]:
    """Say whether a value of a file is a number of a range; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [
        part
        for each in level
        if isinstance(each, dict | list)
        for part in (each.values() if isinstance(each, dict) else each)
        if isinstance(part, dict | list)
    ]:
        depth += 1
        if depth >= MAX_DEPTH:
            raise ValueError(too_deep())


def too_deep() -> str:
    """Say what is wrong with a value of too many levels."""
    return f"nested deeper than {MAX_DEPTH} levels"
