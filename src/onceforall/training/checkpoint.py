"""Training state on disk: whole, checked, and the newest good one found again.

A checkpoint is one file ``step-00000120.<digest>.pt``: a ``torch.save`` archive read back with
``weights_only=True``. The digest in the name is the start of the SHA-256 of the bytes, so that a
damaged file is recognised and the one before it is used. The two newest are kept.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onceforall.errors import CheckpointError
from onceforall.files import remove_partial_files, write_bytes

State = dict[str, Any]
_NAME = re.compile(r"step-(\d{8})\.([0-9a-f]{16})\.pt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A checkpoint that was read.

    Attributes:
        state: What was saved.
        digest: Start of the SHA-256 of the file, 16 hexadecimal digits.
    """

    state: State
    digest: str


def save_checkpoint(folder: Path, state: State, *, step: int, keep: int = 2) -> Path:
    """Write ``state`` and drop all but the ``keep`` newest checkpoints, and unfinished ones.

    Args:
        folder: Folder of the run's checkpoints.
        state: Tensors, numbers, strings, lists and dictionaries of them.
        step: Global step the state belongs to.
        keep: Checkpoints that stay, at least 1.

    Raises:
        OSError: If the disk is full; what was there before is untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:08d}.{_digest(data)}.pt"
    remove_partial_files(folder)  # of a process that was killed while it wrote
    write_bytes(path, data)
    others = [old for old in _by_age(folder) if old != path]
    earlier = [old for old in others if _step_of(old) < step]  # the rest was taken back
    for old in set(others) - set(earlier[: keep - 1]):
        old.unlink(missing_ok=True)
    return path


def load_newest(
    folder: Path, *, device: torch.device | str, on_damaged: Callable[[Path], None]
) -> Loaded | None:
    """Return the newest undamaged checkpoint, or None if there is none.

    Args:
        folder: Folder of the run's checkpoints; may be absent.
        device: Where tensors go.
        on_damaged: Told about each damaged file that was passed over.
    """
    for path in _by_age(folder):
        data = path.read_bytes()
        name = _NAME.fullmatch(path.name)
        if name is None or _digest(data) != name[2]:
            on_damaged(path)
            continue
        try:
            state = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {path.name} is whole but cannot be read: {error}"
            ) from error
        return Loaded(state=state, digest=name[2])
    return None


def _by_age(folder: Path) -> list[Path]:
    """Return the checkpoints, newest first."""
    if not folder.is_dir():
        return []
    files = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(files, key=lambda p: (_step_of(p), p.stat().st_mtime_ns), reverse=True)


def _step_of(path: Path) -> int:
    name = _NAME.fullmatch(path.name)
    return int(name[1]) if name else -1


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
