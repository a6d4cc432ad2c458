"""Files that are not what they say are not believed: models, predictors, latencies, archs."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onceforall
from onceforall.errors import CheckpointError, VerificationError
from onceforall.predictors.accuracy import AccuracyPredictor
from onceforall.predictors.published import read_published_predictor
from onceforall.supernets.families import published_spec
from tests.cli.command import Answer, ofa


def refused(done: Answer, *words: str, status: int = 2) -> None:
    """Check that a command ended with one line that has these words."""
    assert done.status == status, done
    assert done.err.startswith("ofa: ") and done.err.count("\n") == 1, done.err
    assert done.out == ""
    for word in words:
        assert word in done.err, done.err


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# -- 1: whoever reads a shipped file checks its hash ----------------------------------------------


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_a_changed_model_is_noticed_by_everyone(
    name: str, world: Path, run: Path, model: Path, tmp_path: Path
) -> None:
    data = bytearray((model / name).read_bytes())
    data[-1] ^= 1
    (model / name).write_bytes(data)
    out = tmp_path / "exported"
    verbs: tuple[tuple[object, ...], ...] = (
        ("export", model, "--format", "onnx", "--out", out),
        ("export", model, "--format", "torchscript", "--out", out),
        ("eval", world / "images.npz", "--net", model),
        ("finetune", run, model.name, "--epochs", 1),
        ("verify", run),
    )
    for verb in verbs:
        refused(ofa(*verb), f"{name} was changed", status=1)
    assert not out.exists()
    assert [path.name for path in (run / "models").iterdir()] == [model.name]
    with pytest.raises(VerificationError, match="was changed"):
        onceforall.load_model(model)


def test_a_model_that_no_runtime_reads_is_one_line(model: Path) -> None:
    (model / "model.onnx").write_bytes(b"garbage")
    card = json.loads((model / "card.json").read_text())
    digest = hashlib.sha256(b"garbage").hexdigest()
    card["files"]["model.onnx"] = {"bytes": 7, "sha256": digest}
    (model / "card.json").write_text(json.dumps(card))
    refused(ofa("verify", model), "model.onnx cannot be run", status=1)


# -- 2: exactly our files; everything that can be counted is counted again ------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"files": {}}, "does not name"),
        ({"files": {"../../../etc/hostname": {"bytes": 1, "sha256": "0" * 64}}}, "does not name"),
        ({"macs": -5}, "macs: "),
        ({"params": float("nan")}, "params: "),
        ({"params": 1}, "params 1, but it has"),
        ({"peak_activation_bytes": 1}, "peak_activation_bytes 1, but it has"),
        ({"latency_ms": float("nan")}, "latency_ms: "),
        ({"latency_ms": -1.0}, "latency_ms: "),
        ({"resolution": 0}, "resolution: "),
        ({"resolution": -8}, "resolution: "),
        ({"resolution": None}, "resolution: "),
        ({"resolution": 20_000}, "resolution: "),
        ({"resolution": 16}, "resolution 16, but"),
        ({"classes": ["a"]}, "1 classes, but"),
        ({"name": "../../x"}, "is not a plain name"),
    ],
    ids=str,
)
def test_a_card_that_lies_is_not_verified(values: dict[str, Any], words: str, model: Path) -> None:
    change(model / "card.json", **values)
    refused(ofa("verify", model), words, status=1)


def test_a_link_in_place_of_a_file_is_not_followed(model: Path, tmp_path: Path) -> None:
    os.replace(model / "model.onnx", tmp_path / "elsewhere.onnx")
    (model / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    refused(ofa("verify", model), "model.onnx", "symbolic link", status=1)


# -- 4: numbers that are none ---------------------------------------------------------------------


def _published(path: Path, value: float) -> Path:
    sizes = ((400, 128), (400, 400), (400, 400), (1, 400))
    state = {f"{2 * i}.weight": torch.full(size, 0.01) for i, size in enumerate(sizes)}
    state |= {f"{2 * i}.bias": torch.zeros(size[0]) for i, size in enumerate(sizes)}
    state["6.weight"] = torch.full((1, 400), value)
    torch.save(state, path)
    return path


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_a_published_predictor_of_wild_numbers(value: float, tmp_path: Path) -> None:
    path = _published(tmp_path / "p.pth", value)
    space = replace(published_spec("ofa_mbv3_d234_e346_k357_w1.0").space, resolutions=(224,))
    with pytest.raises(CheckpointError, match=r"numbers that are none|no share of images"):
        read_published_predictor(path).predict([space.largest], space)


@pytest.mark.parametrize("value", [float("nan"), 1e38, 1e5])
def test_a_predictor_of_wild_numbers(value: float, run: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = run / "predictor.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors["ridge"] = torch.full_like(tensors["ridge"], value)
    save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match=r"predictor"):
        predictor = AccuracyPredictor.load(path)
        predictor.predict(np.full((1, len(predictor.feature_mean)), 3.0))
    refused(ofa("search", run, "--limit", "macs=1e9"), "predictor")


@pytest.mark.parametrize(
    "options",
    [("--std", "0,0,0"), ("--std=-1,inf,nan",), ("--mean", "nan,0,0"), ("--std", "1,1")],
    ids=str,
)
def test_normalisation_that_is_none(options: tuple[str, ...], world: Path, model: Path) -> None:
    refused(ofa("eval", world / "images.npz", "--net", model, *options), options[0][:5])


def test_a_latency_model_that_says_nothing_takes_time(run: Path) -> None:
    path = next((run / "latency").glob("*.json"))
    weights = json.loads(path.read_text())["weights"]
    change(path, weights=dict.fromkeys(weights, 0.0))
    refused(ofa("latency", "show", path), "all are 0")
    refused(ofa("search", run, "--limit", "macs=1e9"), "all are 0", "delete it")


def test_every_bound_of_a_limit_is_checked_before_the_first_search(run: Path) -> None:
    for bounds in ("1,nan", "1,-1", "1,inf", "1,0"):
        refused(ofa("search", run, "--limit", f"latency_ms={bounds}"), "limit")


# -- 5: names are of this run ---------------------------------------------------------------------


def test_only_models_of_the_run_are_finetuned(run: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "models").mkdir(parents=True)
    for name in (f"{other}/models/X", f"../models/{model.name}", "..", f"./{model.name}"):
        refused(ofa("finetune", run, name, "--epochs", 1), "is not one of")
    change(model / "card.json", name=f"{other}/models/X")
    refused(ofa("finetune", run, model.name, "--epochs", 1), "plain name", status=1)
    assert not list((other / "models").iterdir())


@pytest.mark.parametrize("name", ["../x", "/tmp/x", ".hidden", "a\nb", "\x1b[31m"])
def test_a_model_gets_a_plain_name(name: str, run: Path, model: Path) -> None:
    done = ofa("specialize", run, "--arch", model / "arch.json", "--name", name)
    refused(done, "is not a plain folder name")
