"""One real run of the smallest kind, with every file that the steps write and read."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.command import ofa
from tests.job.tiny_run import SETTINGS, write_images
from tests.search.test_published_search import write_predictor

_LEAST = {
    "train.epochs": "2",
    "data.num_calibration": "16",
    "evaluate.num_archs": "10",
    "latency.budget_s": "0.5",
    "search.population_size": "8",
    "search.generations": "3",
    "search.num_models": "1",
    "search.num_candidates": "2",
    "supernet.resolutions": "[8]",
    "supernet.widths": "[8,8]",
}


PROGRESS = {
    "event": "step", "phase": "sandwich", "epoch": 1, "epochs": 2.0, "step": 3, "steps": 14.0,
    "learning_rate": 0.1, "subnet_losses": [1.1, 1.2], "subnet_top1": [0.5, 0.25],
    "seconds_left": 1.5, "images_per_s": 100.0, "pid": 1, "host": "here", "time": 1.7e9,
    "elapsed_s": 2.5,
}  # fmt: skip


def least_settings(**changes: str) -> list[str]:
    """Return the options of the smallest run, ``section__key`` changed."""
    values = dict(setting.split("=", 1) for setting in SETTINGS) | _LEAST
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def make_world(folder: Path) -> Path:
    """Make the run, a published predictor, weights and configuration in ``folder``."""
    images = write_images(folder / "images.npz")
    done = ofa("run", images, "--out", folder / "run", *least_settings())
    assert done.status == 0, done.err
    write_predictor(folder / "predictor.pth", resnet=False)
    (model,) = (folder / "run" / "models").iterdir()
    for form, name in (("config", "net.json"), ("published", "weights.pth")):
        done = ofa("export", model, "--format", form, "--out", folder / name)
        assert done.status == 0, done.err
    # Written every few seconds of a training, which this one did not last.
    (folder / "run" / "progress.json").write_text(json.dumps(PROGRESS))
    (folder / "run" / "search" / "rejected.json").write_text('{"net01": 1.5}\n')
    (folder / "run" / "search" / "failed.json").write_text(
        '{"models": [{"name": "net01", "problem": "logits"}]}\n'
    )
    return folder
