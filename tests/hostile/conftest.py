"""One real run for all of these tests, made once; tests that change it take a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.hostile.world import make_world
from tests.threads import one_thread  # noqa: F401


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    """Return a copy of the run."""
    return Path(shutil.copytree(world / "run", tmp_path / "run"))


@pytest.fixture
def model(run: Path) -> Path:
    """Return the model of the copy."""
    (folder,) = (run / "models").iterdir()
    return folder
