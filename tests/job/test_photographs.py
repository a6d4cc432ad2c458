"""Training on a few photographs: what is announced is what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from onceforall.artifacts import Request
from onceforall.data import ImageArrays, ImageFiles
from onceforall.job.pipeline import run_all
from onceforall.job.start import plan_run

SETTINGS = (
    "supernet.resolutions=[32]",
    "supernet.width_mult=0.35",
    "train.batch_size=4",
    "train.threads=1",
    "data.num_valid=3",
    "data.num_calibration=4",
    "data.num_workers=0",
)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(16):
        folder = tmp_path / "photographs" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, size=(100, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return tmp_path / "photographs"


def told_while_training(request: Request, out: Path) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    run_all(request, out, tell=told.append, until="train", device=torch.device("cpu"))
    return told


def test_the_epochs_announced_are_those_trained_and_skipped_images_are_said(
    photographs: Path, tmp_path: Path
) -> None:
    (photographs / "class0" / "0.jpg").write_bytes(b"no image")
    request = Request(
        source=str(photographs),
        recipe="imagenet-ofa",
        on_bad_image="skip",
        flags=(*SETTINGS, "train.epochs=5"),
    )
    told = told_while_training(request, tmp_path / "run")
    texts = {event["step"]: event["text"] for event in told if event["event"] == "step_started"}
    epochs = max(event["epochs_done"] for event in told if event["event"] == "epoch")
    assert texts["train"] == f"published, {epochs} epochs" and epochs != 5
    assert "images, 1 unreadable left out;" in texts["plan"]


def test_a_policy_reads_photographs_from_files(photographs: Path, tmp_path: Path) -> None:
    """Few photographs would else be decoded to squares, which no policy works on."""
    for policy, kind in (("none", ImageArrays), ("randaugment", ImageFiles)):
        flags = (*SETTINGS, f"data.policy={policy}")
        request = Request(source=str(photographs), recipe="imagenet-ofa", flags=flags)
        run = plan_run(request, tmp_path / policy, tell=lambda event: None)
        assert isinstance(run.bundle.train, kind)
