"""Files that are either whole or absent.

Every write goes to a temporary file in the same folder, is flushed to the disk and renamed over
the target, so that a crash, a kill or a full disk leaves the previous version untouched. Logs of
one JSON object a line are appended to; a line cut by a crash is dropped on the next read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from onceforall.errors import ConfigError

Json = Any
_PARTIAL = ".tmp"


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes ``path`` when the block ends without an error.

    Args:
        path: File to create or replace. Missing parent folders are made.

    Raises:
        OSError: If the disk is full or the folder is not writable. ``path`` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def check_writable(path: Path) -> None:
    """Say before the work is done if its result could not be written to ``path``.

    Raises:
        ConfigError: If it is a folder, or lies where no folder is or may be made.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, not a file to write")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(f"{path} cannot be written: {nearest} is no folder to write in")


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, atomically.

    Raises:
        OSError: If the disk is full: naming the file, the bytes it needs and those that are free.
    """
    with naming_full_disk(path, len(data)), atomic_writer(path) as file:
        file.write(data)


@contextlib.contextmanager
def naming_full_disk(path: Path, num_bytes: int) -> Iterator[None]:
    """Make the error of a full disk or quota say which file of which size did not fit."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        reason = f"{os.strerror(error.errno)}: {num_bytes:,} bytes needed, {free:,} free"
        raise OSError(error.errno, reason, str(path)) from error


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed :func:`atomic_writer` left; nobody may be writing in ``folder``."""
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to ``path``, atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Json) -> None:
    """Write ``value`` as indented JSON with a final newline, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Json:
    """Return the JSON value in ``path``."""
    return json.loads(path.read_text())


def read_json_file(path: Path) -> Json:
    """Return the JSON value of a file that a user named.

    Raises:
        ConfigError: If it is not there or not JSON.
    """
    try:
        return read_json(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is not a JSON file: {error}") from error


def file_digest(path: Path) -> str:
    """Return the start of the SHA-256 of a file, 16 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def append_jsonl(path: Path, record: Json) -> None:
    """Append one JSON object as one line, flushed to the disk.

    A line that a crash cut off at the end of the file is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    trim_partial_line(path)
    line = json.dumps(record).encode() + b"\n"
    with naming_full_disk(path, len(line)), path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: Path) -> list[Json]:
    """Return the complete lines of ``path``; an absent file is an empty list.

    Reading stops before a last line that is cut off.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1] if line.strip()]


def trim_partial_line(path: Path) -> None:
    """Cut ``path`` back to its last complete line."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def cache_folder(name: str) -> Path:
    """Return the user's folder for one kind of downloads; it need not exist.

    ``$ONCEFORALL_HOME/name``, else ``$XDG_CACHE_HOME/onceforall/name``, else
    ``~/.cache/onceforall/name``.
    """
    if home := os.environ.get("ONCEFORALL_HOME"):
        return Path(home).expanduser() / name
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "onceforall" / name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
