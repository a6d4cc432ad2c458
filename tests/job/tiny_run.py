"""A whole run on images and networks so small that it takes seconds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from tests.training.tiny import tiny_images

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "data.num_valid=30",
    "data.num_calibration=30",
    "supernet.family=small_images",
    "supernet.resolutions=[8,12]",
    "supernet.widths=[8,16]",
    "supernet.width_mults=[0.5,1.0]",
    "supernet.depths=[1,2]",
    "supernet.kernel_sizes=[3,5]",
    "supernet.expand_ratios=[2,3]",
    "supernet.stem_width=8",
    "supernet.expand_width=16",
    "train.plan=sandwich",
    "train.autocast=false",
    "train.epochs=10",
    "train.batch_size=16",
    "train.learning_rate=0.1",
    "train.reference_batch=16",
    "train.subnets_per_step=3",
    "train.threads=1",
    "evaluate.num_archs=24",
    "latency.budget_s=2",
    "search.population_size=24",
    "search.generations=8",
    "search.num_models=3",
)


def write_images(path: Path, *, scale: int = 1) -> Path:
    """Write an ``.npz`` of 150 training and 60 test images, each pixel ``scale`` times wide."""
    train, test = tiny_images(150), tiny_images(60, seed=1)
    pictures = [
        split.images.permute(0, 2, 3, 1).numpy().repeat(scale, 1).repeat(scale, 2)
        for split in (train, test)
    ]
    np.savez(
        path,
        x_train=pictures[0],
        y_train=train.labels.numpy(),
        x_test=pictures[1],
        y_test=test.labels.numpy(),
    )
    return path


def command(images: Path, out: Path) -> list[str]:
    """Return the command line of the run."""
    flags = [part for setting in SETTINGS for part in ("--set", setting)]
    return [sys.executable, "-m", "onceforall", "run", str(images), "--out", str(out), *flags]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
