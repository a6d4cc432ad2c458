"""``ofa eval`` counts the same on any number of ranks and workers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from onceforall.data import ImageArrays
from onceforall.data.images.augmentation import Augmentation
from onceforall.errors import MeasurementError
from onceforall.files import write_json
from onceforall.job.tasks.evaluate_any import share_of
from onceforall.measure.accuracy import Accuracy, evaluate
from onceforall.supernets.weights import save_supernet
from onceforall.training.ranks import Ranks
from tests.cli.command import Answer, ofa
from tests.shared_data import REPOSITORY, shared_data
from tests.training.tiny import CLASSES, SPEC, tiny_images, tiny_net

PROXYLESS = "proxyless-w0.3-r176_imagenet"


def images(count: int) -> ImageArrays:
    found = tiny_images(count)
    return ImageArrays(images=found.images, labels=torch.arange(count))


@pytest.mark.parametrize(("count", "ranks"), [(1, 2), (9, 2), (8, 2), (9, 3), (3, 5), (20, 1)])
def test_shares_are_whole_batches_and_all_images_once(count: int, ranks: int) -> None:
    batch_size, found = 2, []
    for rank in range(ranks):
        share = share_of(images(count), batch_size, Ranks(rank=rank, world_size=ranks))
        found += [] if share is None else share.labels.split(batch_size)
    whole = torch.arange(count).split(batch_size)
    assert sorted(part.tolist() for part in found) == [part.tolist() for part in whole]


def test_a_rank_without_images_counts_with_the_others() -> None:
    others = torch.tensor([3.0, 4.0, 5.0, 5.0], dtype=torch.float64)
    found = evaluate(lambda x: x, [], add_up=lambda counts: counts + others)
    assert found == Accuracy(top1=0.6, top5=0.8, loss=1.0, images=5)
    with pytest.raises(MeasurementError, match="at least 1 image"):
        evaluate(lambda x: x, [])


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The words after ``ofa`` that evaluate a subnet; calibration takes three batches, uneven."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 70), ("val", 3)):
        for label in range(CLASSES):
            folder = tmp_path / "pictures" / part / str(label)
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, size=(20, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    net, arch = tmp_path / "net.safetensors", tmp_path / "arch.json"
    save_supernet(tiny_net(), net, facts={"mean": [0.5] * 3, "std": [0.5] * 3, "crop_ratio": 1.0})
    write_json(arch, SPEC.space.largest.to_json())
    words = ["eval", str(tmp_path / "pictures"), "--net", str(net), "--arch", str(arch), "--json"]
    return [*words, "--batch-size", "2"]


def on_two_ranks(words: list[str]) -> list[Answer]:
    """Return what each of two processes says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "onceforall", *words, "--device", "cpu"],
            cwd=REPOSITORY,
            env=os.environ
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
            | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        Answer(status=process.returncode, out=out, err=err)
        for process, (out, err) in zip(started, said, strict=True)
    ]


def test_two_ranks_and_a_worker_count_what_one_process_counts(command: list[str]) -> None:
    alone: dict[str, Any] = json.loads(ofa(*command).out)
    assert alone["images"] == 9 and alone["calibration"] == "210 training images"
    first, second = on_two_ranks([*command, "--workers", "1"])
    assert (first.status, second.status) == (0, 0), (first.err, second.err)
    assert json.loads(first.out) == alone and second.out == ""


def test_a_supernet_of_shifted_images_is_recalibrated_as_in_its_run(
    command: list[str], tmp_path: Path
) -> None:
    clean: dict[str, Any] = json.loads(ofa(*command).out)
    facts = tmp_path / "net.json"
    varied = asdict(Augmentation(crop="pad", padding=0.5))
    write_json(facts, {**json.loads(facts.read_text()), "calibration_augmentation": varied})
    alone = json.loads(ofa(*command).out)
    assert alone["calibration"] == "210 training images, varied as in training"
    assert {**alone, "calibration": clean["calibration"]} != clean
    first, _ = on_two_ranks(command)
    assert json.loads(first.out) == alone


def test_a_rank_that_fails_ends_the_others(command: list[str], tmp_path: Path) -> None:
    # The fifth picture is in the third batch, which is rank 0's.
    (tmp_path / "pictures" / "val" / "1" / "1.png").write_bytes(b"no image")
    first, second = on_two_ranks(command)
    assert (first.status, second.status) == (2, 2)
    assert "1.png: cannot be read" in first.err and "lost the other ranks" in second.err
    one = ofa(*command, "--on-bad-image", "skip")
    assert one.status == 0 and json.loads(one.out)["images"] == 8
    assert "warning: " in one.err and "1.png" in one.err


def test_real_weights_have_their_known_accuracy() -> None:
    """With no worker in one process, and with two workers in each of two."""
    pictures = shared_data("imagenet_val1300")
    weights = shared_data("weights", f"{PROXYLESS}.pth")
    half = "0.5,0.5,0.5"
    words = [
        *("eval", str(pictures), "--net", str(weights.with_suffix(".json"))),
        *("--weights", str(weights), "--mean", half, "--std", half, "--json"),
    ]
    alone, (first, _) = ofa(*words), on_two_ranks([*words, "--workers", "2"])
    assert (alone.status, first.status) == (0, 0), (alone.err, first.err)
    found = json.loads(alone.out)
    assert found["images"] == 1300
    assert round(found["top1"] * 1300) == 903  # 69.46 %
    assert json.loads(first.out) == found
