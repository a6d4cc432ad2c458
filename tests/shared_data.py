"""Where the data beside the repository is, for tests that need it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def shared_data(*parts: str) -> Path:
    """Return a file or folder of the shared test data; skip the test where it is missing."""
    given = os.environ.get("ONCEFORALL_TEST_DATA")
    root = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no test data at {path} (ONCEFORALL_TEST_DATA)")
    return path
