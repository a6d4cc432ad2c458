"""A model folder proves itself, and notices any change."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from onceforall.arch import Arch
from onceforall.deploy.model_folder import (
    Checks,
    check_files,
    export_files,
    finished_or_removed,
    model_folders,
    verify_folder,
    write_card,
)
from onceforall.deploy.specialize import specialize
from onceforall.errors import ConfigError, VerificationError
from onceforall.supernets.families import small_images
from onceforall.supernets.static import StaticNet
from onceforall.supernets.supernet import Supernet
from tests.cards import card_facts
from tests.training.tiny import SPEC, tiny_eval, tiny_net

pytest.importorskip("onnxruntime")
ARCH = SPEC.space.largest
PLAN = SPEC.blueprint(ARCH)


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, Checks]:
    folder = tmp_path / "models" / "net01"
    net, batches = tiny_net(), [x for x, _ in tiny_eval().batches(ARCH.resolution)]
    plain = specialize(net, ARCH, calibration=batches)
    export_files(folder, plain, PLAN, ARCH)
    checks = check_files(folder, plain, net=net, arch=ARCH, images=batches[0][:4])
    write_card(folder, PLAN, checks, card_facts(PLAN, ARCH))
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
    card["classes"] = list("abcdefg")
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(VerificationError, match="linear"):
        verify_folder(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"files": {}}, "does not name model.onnx"),
        ({"files": {"../../x": {"bytes": 1, "sha256": "0" * 64}}}, "does not name model.onnx"),
        ({"macs": 1}, "macs 1, but it has"),
        ({"params": -1}, "params: "),
        ({"latency_ms": float("nan")}, "latency_ms: "),
        ({"arch": {"depth": 1}}, "arch: "),
    ],
)
def test_a_card_is_not_believed(
    model: tuple[Path, Checks], change: dict[str, object], problem: str
) -> None:
    path = model[0] / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(VerificationError, match=problem):
        verify_folder(model[0])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"extracted_bitwise": False, "extracted_relative_error": 2e-5},
            "extracted network differs from the supernet by 2e-05",
        ),
        (
            {"safetensors_bitwise": False, "safetensors_relative_error": float("nan")},
            "safetensors differs from the supernet by nan",
        ),
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


def test_another_order_of_sums_is_no_failure(model: tuple[Path, Checks]) -> None:
    change = {"extracted_bitwise": False, "extracted_relative_error": 6e-6}
    assert dataclasses.replace(model[1], **change).problem() is None


def photograph_net(layout: torch.memory_format) -> tuple[Supernet, Arch, list[Tensor]]:
    """Return a supernet wide enough that its layouts round differently, an arch, and batches."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Supernet(small_images(num_classes=4, resolutions=(32,), widths=(24, 48, 96))).eval()
    images = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return net.to(memory_format=layout), net.space.largest, [images]


@pytest.mark.parametrize("images_layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_like_is_compared_with_like(
    tmp_path: Path, layout: torch.memory_format, images_layout: torch.memory_format
) -> None:
    net, arch, batches = photograph_net(layout)
    plan = net.blueprint(arch)
    plain = specialize(net, arch, calibration=batches)
    export_files(tmp_path, plain, plan, arch)
    images = batches[0][:16].contiguous(memory_format=images_layout)
    checks = check_files(tmp_path, plain, net=net, arch=arch, images=images)
    assert checks.problem() is None
    assert checks.extracted_bitwise and checks.extracted_relative_error == 0
    assert checks.safetensors_bitwise and checks.safetensors_relative_error == 0


def spoil_weight(plain: StaticNet) -> None:
    plain.get_submodule("blocks.0.depth_conv.conv").weight[0] *= 1.05


def spoil_statistics(plain: StaticNet) -> None:
    plain.get_submodule("blocks.0.depth_conv.bn").running_var[0] *= 1.1


@pytest.mark.parametrize("spoil", [spoil_weight, spoil_statistics])
def test_one_wrong_channel_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[StaticNet], None]
) -> None:
    net, arch, batches = photograph_net(torch.channels_last)
    plan, right = net.blueprint(arch), specialize(net, arch, calibration=batches)
    wrong = copy.deepcopy(right)
    with torch.no_grad():
        spoil(wrong)
    export_files(tmp_path / "wrong", wrong, plan, arch)
    export_files(tmp_path / "right", right, plan, arch)
    settings = {"net": net, "arch": arch, "images": batches[0][:16]}
    problem = check_files(tmp_path / "wrong", right, **settings).problem()
    assert problem is not None and "model.safetensors differs" in problem

    extract = Supernet.extract

    def extract_wrongly(net: Supernet, arch: Arch) -> StaticNet:
        plain = extract(net, arch)
        with torch.no_grad():
            spoil(plain)
        return plain

    monkeypatch.setattr(Supernet, "extract", extract_wrongly)
    problem = check_files(tmp_path / "right", right, **settings).problem()
    assert problem is not None and "extracted network differs" in problem


def test_a_folder_that_is_not_finished_is_removed(model: tuple[Path, Checks]) -> None:
    folder, checks = model
    with finished_or_removed(folder):
        pass
    assert verify_folder(folder)
    (folder / "card.json").unlink()
    failing = dataclasses.replace(checks, depends_on_input=False)
    with pytest.raises(VerificationError), finished_or_removed(folder):
        write_card(folder, PLAN, failing, {})
    assert not folder.exists()


def test_a_network_whose_signal_dies_is_not_called_verified(tmp_path: Path) -> None:
    net = tiny_net()
    with torch.no_grad():
        net.layers[-1].linear.weight.zero_()
    batches = [x for x, _ in tiny_eval().batches(ARCH.resolution)]
    plain = specialize(net, ARCH, calibration=batches)
    export_files(tmp_path, plain, PLAN, ARCH)
    checks = check_files(tmp_path, plain, net=net, arch=ARCH, images=batches[0][:4])
    assert checks.problem() == "the logits do not depend on the image"


def test_a_folder_without_models_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a model folder"):
        model_folders(tmp_path)
