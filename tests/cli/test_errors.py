"""What a user can get wrong: one line, exit status 2, no traceback, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.cli import command

REPLY = "ofa: "


@pytest.fixture
def ofa():
    def call(*arguments: object) -> tuple[int, str, str]:
        answer = command.ofa(*arguments)  # whose time begins now, not with this process of tests
        return answer.status, answer.out, answer.err

    return call


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, size=(40, 8, 8, 3), dtype=np.uint8)
    y = np.arange(40) % 2
    path = tmp_path / "images.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


CASES = {
    "sandwich only": (
        ["train", "IMAGES", "--out", "OUT", "--config", "PROGRESSIVE"],
        "train.attentive 'best' needs train.plan sandwich, not progressive",
    ),
    "wrong path": (["run", "no/such/folder", "--out", "OUT"], "no such folder"),
    "unknown data set": (["run", "digitz", "--out", "OUT"], "did you mean digits"),
    "unknown verb": (["rnu"], "No such command"),
    "unknown option": (["run", "digits", "--out", "OUT", "--budgt", "1"], "--budgt"),
    "missing argument": (["run"], "Missing argument 'DATA'"),
    "bad budget": (["run", "digits", "--out", "OUT", "--budget", "soon"], "'soon' is not a time"),
    "bad limit": (["run", "digits", "--out", "OUT", "--limit", "fast"], "name=bound"),
    "unknown limit": (["run", "IMAGES", "--out", "OUT", "--limit", "speed=1"], "'speed' is not"),
    "negative limit": (
        ["run", "IMAGES", "--out", "OUT", "--limit", "macs=-1"],
        "not a number above 0",
    ),
    "unknown key": (["run", "IMAGES", "--out", "OUT", "--set", "train.epoch=3"], "train.epochs?"),
    "bad value": (["run", "IMAGES", "--out", "OUT", "--set", "train.epochs=0"], "train.epochs 0"),
    "bad flag": (["run", "IMAGES", "--out", "OUT", "--set", "epochs"], "section.key=value"),
    "no config file": (["run", "IMAGES", "--out", "OUT", "--config", "none.yaml"], "none.yaml"),
    "not a run": (["search", "OUT", "--limit", "macs=1"], "no run.yaml"),
    "bad caution": (["search", "OUT", "--caution", "-1"], "--caution"),
    "caution without a run": (
        ["search", "--net", "NET", "--predictor", "IMAGES", "--caution", "1"],
        "--caution needs a RUN",
    ),
    "baseline of nothing": (["baseline", "OUT"], "no run.yaml"),
    "baseline for no time": (["baseline", "OUT", "--budget", "0"], "'0' is not a time"),
    "no models": (["verify", "OUT"], "neither a model folder"),
    "unknown recipe": (["run", "IMAGES", "--out", "OUT", "--recipe", "best"], "imagenet-ofa"),
    "no weights": (["train", "IMAGES", "--out", "OUT", "--init", "none.pt"], "is not a file"),
    "frozen nothing": (["train", "IMAGES", "--out", "OUT", "--freeze-backbone"], "need --init"),
    "train nothing": (["train", "--out", "OUT"], "DATA and --out, or --status RUN"),
    "status of nothing": (["train", "--status", "OUT"], "not the folder of a run"),
    "several bounds": (
        ["run", "IMAGES", "--out", "OUT", "--limit", "latency_ms=1,2"],
        "--limit latency_ms has 2 bounds",
    ),
    "no YAML": (["run", "IMAGES", "--out", "OUT", "--set", "train.epochs=["], "'train.epochs=['"),
    "few archs": (
        ["run", "IMAGES", "--out", "OUT", "--set", "evaluate.num_archs=8"],
        "evaluate.num_archs 8",
    ),
    "budget of a run": (["search", "OUT", "--budget", "5s"], "--budget goes with --net"),
    "predictor of a run": (["search", "OUT", "--predictor", "p"], "--predictor goes with --net"),
    "latency by its other name": (
        ["search", "OUT", "--latency-table", "IMAGES"],
        "a RUN has a table of its own",
    ),
    "val alone": (["run", "VAL", "--out", "OUT"], "there are no training images"),
    "few further archs": (["predictor", "build", "OUT", "--archs", "29"], "--archs"),
    "unknown step": (["run", "IMAGES", "--out", "OUT", "--until", "lunch"], "'lunch' is not one"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_status_two(case: str, ofa, images: Path, tmp_path: Path) -> None:
    arguments, expected = CASES[case]
    out = tmp_path / "out"
    progressive = tmp_path / "progressive.yaml"
    progressive.write_text("train: {plan: progressive, attentive: best}\n")
    for name in ("cat/1.png", "dog/1.png"):
        path = tmp_path / "only_val" / "val" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(path)
    only_val = tmp_path / "only_val"
    places = {"OUT": out, "IMAGES": images, "PROGRESSIVE": progressive, "VAL": only_val}
    status, stdout, stderr = ofa(*(places.get(a, a) for a in arguments))
    assert status == 2
    assert expected in stderr
    assert stderr.startswith(REPLY) and stderr.count("\n") == 1, stderr
    assert stdout == ""
    assert not out.exists()


def test_initial_weights_that_do_not_fit_leave_the_folder_free(
    ofa, images: Path, tmp_path: Path
) -> None:
    wrong, out = tmp_path / "wrong.safetensors", tmp_path / "out"
    safetensors.torch.save_file({"x": torch.zeros(2)}, wrong)
    status, _, stderr = ofa("train", images, "--out", out, "--init", wrong)
    assert status == 2 and "does not fit" in stderr and stderr.count("\n") == 1, stderr
    assert not out.exists()


def test_an_unknown_key_in_a_yaml_file_names_the_nearest(ofa, images: Path, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("train:\n  learning_rat: 0.1\n")
    status, _, stderr = ofa(
        "run", images, "--out", tmp_path / "out", "--config", tmp_path / "my.yaml"
    )
    assert status == 2
    assert "unknown key train.learning_rat; did you mean train.learning_rate?" in stderr
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written(ofa, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    status, _, stderr = ofa("run", images, "--out", tmp_path / "file" / "run")
    assert status == 2
    assert "file" in stderr and stderr.count("\n") == 1


def test_a_folder_with_other_things_is_left_alone(ofa, images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    status, _, stderr = ofa("run", images, "--out", tmp_path / "mine")
    assert status == 2
    assert "not empty and holds no run" in stderr
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_json_goes_to_standard_output_alone(ofa, images: Path) -> None:
    status, stdout, _ = ofa("data", images, "--json")
    assert status == 0
    facts = json.loads(stdout)
    assert (facts["classes"], facts["train"], facts["test"], facts["image_side"]) == (2, 40, 40, 8)
