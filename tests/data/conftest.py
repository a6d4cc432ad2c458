"""Small folders of images, and a guard for the global generators."""

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.pictures import noise

# Importing scikit-learn moves the global generators; that is not what the guard looks for.
with contextlib.suppress(ImportError):
    import sklearn.datasets  # noqa: F401

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def global_generators_stay() -> Iterator[None]:
    """No test of the data layer may move a global generator."""
    before = (random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1].copy())
    yield
    after = (random.getstate(), torch.random.get_rng_state(), np.random.get_state()[1])
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])
    assert (before[2] == after[2]).all()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    given = os.environ.get("ONCEFORALL_TEST_DATA")
    path = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no shared test data at {path} (ONCEFORALL_TEST_DATA)")
    return path


MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write ``count`` images per class below ``tmp_path / name``."""

    def make(
        layout: dict[str, int],
        *,
        name: str = "set",
        size: tuple[int, int] = (24, 24),
        suffix: str = ".png",
    ) -> Path:
        root = tmp_path / name
        for position, (place, count) in enumerate(sorted(layout.items())):
            (root / place).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = noise(1000 * position + i, *size)
                Image.fromarray(pixels).save(root / place / f"{i:03d}{suffix}")
        return root

    return make
