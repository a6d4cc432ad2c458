"""Files that are either whole or absent.

Every write goes to a temporary file in the same folder, is flushed to the disk and renamed over
the target, so that a crash, a kill or a full disk leaves the previous version untouched. Logs of
one JSON object a line are appended to; a line cut by a crash is dropped on the next read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from onceforall.errors import CheckpointError, ConfigError
from onceforall.reading import (
    MAX_LOG_BYTES,
    MAX_TEXT_BYTES,
    named,
    open_regular,
    parse_json,
    read_bounded,
)

Json = Any
_PARTIAL = ".tmp"
_CHUNK_BYTES = 2**16


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
    """Return the JSON value of a file that a run wrote.

    Raises:
        CheckpointError: If it is damaged.
        OSError: If it cannot be read.
    """
    try:
        return parse_json(read_bounded(path))
    except ValueError as error:
        raise damaged(path, str(error)) from error


def read_object(path: Path) -> dict[str, Json]:
    """Return the JSON object in a file that a run wrote.

    Raises:
        CheckpointError: If it is damaged, or no object.
        OSError: If it cannot be read.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise damaged(path, f"it holds {type(value).__name__}, not an object")
    return value


def damaged(path: Path | str, where: str) -> CheckpointError:
    """Return the error of a file that a run wrote and can write again."""
    return CheckpointError(f"{path} is damaged: {where}; delete it and the same command goes on")


def read_json_file(path: Path) -> Json:
    """Return the JSON value of a file that a user named.

    Raises:
        ConfigError: If it is not there or not JSON.
    """
    try:
        return parse_json(read_bounded(named(path)))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is not a JSON file: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Return what went wrong, in one line without the name of the file."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split())


def file_digest(path: Path) -> str:
    """Return the start of the SHA-256 of a file, 16 hexadecimal digits."""
    return sha256(named(path))[:16]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def append_jsonl(path: Path, record: Json) -> None:
    """Append one JSON object as one line, flushed to the disk.

    A line that a crash cut off at the end of the file is removed first. What is no regular file,
    or a link to one, is left alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record).encode() + b"\n"
    with (
        naming_full_disk(path, len(line)),
        open_regular(path, flags=os.O_RDWR | os.O_CREAT, max_bytes=MAX_LOG_BYTES) as file,
    ):
        _trim_partial_line(file)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: Path) -> list[Json]:
    """Return the complete lines of ``path``, objects; an absent file is an empty list.

    Reading stops before a last line that is cut off.

    Raises:
        CheckpointError: If a line is damaged.
    """
    return list(iterate_jsonl(path))


def iterate_jsonl(path: Path) -> Iterator[Json]:
    """Yield what :func:`read_jsonl` returns, one line in memory at a time."""
    try:
        with open_regular(path, max_bytes=MAX_LOG_BYTES) as file:
            for number in itertools.count(1):
                line = file.readline(MAX_TEXT_BYTES)
                if not line.endswith(b"\n"):
                    if len(line) == MAX_TEXT_BYTES:
                        raise damaged(path, f"line {number} is longer than {len(line):,} bytes")
                    return
                if line.strip():
                    yield _parse_line(path, number, line)
    except FileNotFoundError:
        return


def _parse_line(path: Path, number: int, line: bytes) -> Json:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise damaged(path, f"line {number}: {error}") from error
    if not isinstance(value, dict):
        raise damaged(path, f"line {number} holds {type(value).__name__}, not an object")
    return value


def _trim_partial_line(file: BinaryIO) -> None:
    """Cut a file back to its last complete line, and stand at its end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _CHUNK_BYTES)
        file.seek(start)
        kept = file.read(end - start).rfind(b"\n") + 1
        end = start + kept
        if kept:
            break
    file.truncate(end)
    file.seek(end)


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
