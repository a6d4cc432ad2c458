"""A model folder proves itself, and notices any change."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from onceforall.deploy.model_folder import (
    Checks,
    check_files,
    export_files,
    model_folders,
    verify_folder,
    write_card,
)
from onceforall.deploy.specialize import specialize
from onceforall.errors import ConfigError, VerificationError
from tests.train.tiny import SPEC, tiny_eval, tiny_net

pytest.importorskip("onnxruntime")
ARCH = SPEC.space.largest
PLAN = SPEC.blueprint(ARCH)


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, Checks]:
    folder = tmp_path / "models" / "net01"
    net, batches = tiny_net(), [x for x, _ in tiny_eval().batches(ARCH.resolution)]
    export_files(folder, specialize(net, ARCH, calibration=batches), PLAN, ARCH)
    checks = check_files(
        folder, PLAN, net=net, arch=ARCH, calibration=batches, images=batches[0][:4]
    )
    write_card(folder, PLAN, checks, {"name": "net01", "resolution": ARCH.resolution})
    return folder, checks


def test_files_agree_and_verify_again(model: tuple[Path, Checks]) -> None:
    folder, checks = model
    assert checks.extracted_bitwise and checks.safetensors_bitwise and checks.depends_on_input
    assert checks.onnx_relative_error <= 1e-5
    assert verify_folder(folder)["onnx_relative_error"] <= 1e-5
    assert model_folders(folder.parents[1]) == [folder]


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "arch.json"])
def test_a_changed_or_missing_file_is_noticed(model: tuple[Path, Checks], name: str) -> None:
    path = model[0] / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerificationError, match=f"{name} was changed"):
        verify_folder(model[0])
    path.unlink()
    with pytest.raises(VerificationError, match=f"{name} is missing"):
        verify_folder(model[0])


def test_weights_of_another_network_are_noticed(model: tuple[Path, Checks]) -> None:
    folder, _ = model
    card = json.loads((folder / "card.json").read_text())
    card["blueprint"]["head"][-1]["out_features"] = 7
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(VerificationError, match="linear"):
        verify_folder(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"extracted_bitwise": False}, "differs from the supernet"),
        ({"safetensors_bitwise": False}, "safetensors differs"),
        ({"onnx_relative_error": 1e-3}, "off by 0.001"),
        ({"onnx_relative_error": float("nan")}, "off by nan"),
        ({"depends_on_input": False}, "do not depend"),
    ],
)
def test_a_failed_check_writes_no_card(
    model: tuple[Path, Checks], change: dict[str, object], problem: str
) -> None:
    folder, checks = model
    (folder / "card.json").unlink()
    with pytest.raises(VerificationError, match=problem):
        write_card(folder, PLAN, dataclasses.replace(checks, **change), {})
    assert not (folder / "card.json").exists()


def test_a_network_whose_signal_dies_is_not_called_verified(tmp_path: Path) -> None:
    net = tiny_net()
    with torch.no_grad():
        net.layers[-1].linear.weight.zero_()
    batches = [x for x, _ in tiny_eval().batches(ARCH.resolution)]
    export_files(tmp_path, specialize(net, ARCH, calibration=batches), PLAN, ARCH)
    checks = check_files(
        tmp_path, PLAN, net=net, arch=ARCH, calibration=batches, images=batches[0][:4]
    )
    assert checks.problem() == "the logits do not depend on the image"


def test_a_folder_without_models_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a model folder"):
        model_folders(tmp_path)
