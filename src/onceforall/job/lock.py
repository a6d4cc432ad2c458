"""One command at a time writes into the folder of a run.

The lock is the kernel's, on a file in the folder: it ends with the process that holds it, however
that ends, so that nobody has to find out whether a lock is stale. The file says who holds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from onceforall.errors import ConfigError
from onceforall.files import check_writable, remove_partial_files
from onceforall.reading import open_regular

LOCK = ".lock"
# File systems without locks: what two commands do there is up to their user.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_MAX_BYTES = 4096
# Files that vanish between opening and locking, because their holder is just done.
_ATTEMPTS = 20


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; make the folder, and leave no empty one behind.

    Args:
        folder: Folder of the run; need not be there.

    Raises:
        ConfigError: If another process holds it; its number is named.
        OSError: If the folder cannot be written.
    """
    check_writable(folder / LOCK)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder):
            # Of who was killed here.
            for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
                remove_partial_files(place)
            yield
    finally:
        with contextlib.suppress(OSError):  # what is not empty stays
            for path in made:
                path.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    path = folder / LOCK
    for _ in range(_ATTEMPTS):
        with open_regular(path, flags=os.O_RDWR | os.O_CREAT, max_bytes=_MAX_BYTES) as file:
            _lock(folder, file.fileno(), file.read(_MAX_BYTES))
            if not _is_same(path, file.fileno()):
                continue  # its holder removed it in between: the name is another file's
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()} {platform.node()}\n".encode())
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
    raise ConfigError(f"{path} keeps changing: other commands come and go in {folder}")


def _lock(folder: Path, descriptor: int, said: bytes) -> None:
    try:
        # Of the process, not of the file: children that read images do not inherit it.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        pid, _, host = said.decode(errors="replace").partition(" ")
        where = "" if host.strip() in ("", platform.node()) else f" on {host.strip()}"
        raise ConfigError(
            f"process {pid.strip() or '(unknown)'}{where} is at work in {folder}; wait for it, or "
            "use another folder"
        ) from error


def _is_same(path: Path, descriptor: int) -> bool:
    mine = os.fstat(descriptor)
    try:
        now = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (now.st_dev, now.st_ino)
