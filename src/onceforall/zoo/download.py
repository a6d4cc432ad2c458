"""Published files: from the cache, or downloaded once, checked, and resumed where cut off.

The cache folder is ``$ONCEFORALL_HOME/zoo``, else ``$XDG_CACHE_HOME/onceforall/zoo``, else
``~/.cache/onceforall/zoo``. A file that is there answers without the network, whoever put it there.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from onceforall import files
from onceforall.errors import ZooError
from onceforall.zoo.entries import RemoteFile

# Called with the bytes at hand and the bytes of the whole file (None where unknown).
Progress = Callable[[int, int | None], None]

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30.0


def cache_folder() -> Path:
    """Return the folder that published files are kept in; it need not exist."""
    return files.cache_folder("zoo")


def cached(file: RemoteFile) -> Path | None:
    """Return the cached copy of a published file, checked; None where there is none.

    Raises:
        ZooError: If there is one with other content than the published file.
    """
    path = cache_folder() / file.cache_path
    if not path.is_file():
        return None
    problem = _content_problem(path, file.git_blob_sha1)
    if problem:
        raise ZooError(f"{path} {problem}; remove it, or pass its path as weights to use it anyway")
    return path


def fetch(file: RemoteFile, *, progress: Progress | None = None) -> Path:
    """Return a published file, downloading it if it is not in the cache.

    Args:
        file: What to get.
        progress: Called while bytes arrive.

    Raises:
        ZooError: If it cannot be had; the message says where to put the file by hand.
    """
    path = cached(file)
    if path is not None:
        return path
    path = cache_folder() / file.cache_path
    try:
        download(file.url, path, git_blob_sha1=file.git_blob_sha1, progress=progress)
    except ZooError as error:
        raise ZooError(
            f"{error}; if you have the file, name it as the weights (--weights FILE), or put it at "
            f"{path}"
        ) from error
    return path


def download(
    url: str,
    path: Path,
    *,
    git_blob_sha1: str | None = None,
    progress: Progress | None = None,
    attempts: int = 3,
    pause_s: float = 1.0,
) -> None:
    """Download ``url`` to ``path``: whole and checked, or not at all.

    Bytes are collected in ``path`` + ``.part``; what is there is kept when the connection breaks,
    and the next attempt, in this call or a later one, goes on from it. One process at a time.

    Args:
        url: Address, http or https.
        path: File to create. Missing parent folders are made.
        git_blob_sha1: Git's hash of the content; None takes any content of the announced size.
        progress: Called while bytes arrive.
        attempts: How often to connect before giving up.
        pause_s: Seconds between attempts.

    Raises:
        ZooError: If the file is not there, cannot be reached, ends early, or has other content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with _lock(path.parent / ".lock"):
        if path.is_file():  # another process was faster
            return
        for attempt in range(1, attempts + 1):
            try:
                _receive(url, part, progress)
                break
            except urllib.error.HTTPError as error:
                error.close()
                raise ZooError(
                    f"cannot download {url}: HTTP {error.code} {error.reason}"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                if attempt == attempts:
                    reason = getattr(error, "reason", error)
                    raise ZooError(f"cannot download {url}: {reason}") from error
                time.sleep(pause_s)
        _validator(part).unlink(missing_ok=True)
        problem = _content_problem(part, git_blob_sha1)
        if problem:
            part.unlink()
            raise ZooError(f"cannot download {url}: the content {problem}")
        os.replace(part, path)


def git_blob_sha1(path: Path) -> str:
    """Return git's hash of a file's content, 40 hex digits."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _content_problem(path: Path, expected: str | None) -> str | None:
    if expected is None:
        return None
    found = git_blob_sha1(path)
    return None if found == expected else f"has git hash {found} where {expected} is published"


def _receive(url: str, part: Path, progress: Progress | None) -> None:
    """Collect the rest of ``url`` in ``part``; raises OSError when the body ends early."""
    start = part.stat().st_size if part.exists() else 0
    validator = _validator(part)
    headers = {"User-Agent": "onceforall"}
    # Only go on if the server can tell us that its file is still the one we have a part of.
    if start and validator.exists():
        headers |= {"Range": f"bytes={start}-", "If-Range": validator.read_text()}
    if not url.startswith(("http://", "https://")):
        raise ZooError(f"cannot download {url}: only http and https addresses")
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        part.unlink()  # the part is as long as the file or longer: get all of it again
        raise ConnectionError("the partial file did not fit and was dropped") from error
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = start if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if tag and not tag.startswith("W/"):
            validator.write_text(tag)
        else:
            validator.unlink(missing_ok=True)
        with part.open("ab" if resumed else "wb") as file:
            have += _copy(response, file, lambda n: progress and progress(have + n, total))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have != total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")


def _copy(
    source: http.client.HTTPResponse, target: BinaryIO, report: Callable[[int], object]
) -> int:
    count = 0
    while chunk := source.read(_CHUNK_BYTES):
        target.write(chunk)
        count += len(chunk)
        report(count)
    return count


def _validator(part: Path) -> Path:
    """Return the file that remembers which version of the remote file ``part`` belongs to."""
    return part.with_name(part.name + ".etag")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; the system drops it if the process dies."""
    with path.open("wb") as file:
        with contextlib.suppress(ImportError):  # no fcntl on Windows: no lock there
            fcntl = importlib.import_module("fcntl")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
