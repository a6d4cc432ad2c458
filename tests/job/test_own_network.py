"""The whole job from a network of one's own and its weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml

import onceforall as ofa
from onceforall.artifacts import Request
from onceforall.deploy.export import export_model
from onceforall.deploy.model_folder import model_folders, verify_folder
from onceforall.errors import CheckpointError, ConfigError
from onceforall.job.config import flag
from onceforall.job.nets import net_flags, weights_flags
from onceforall.job.outside_nets import is_factory, load_weights, make_network
from onceforall.job.start import plan_run
from onceforall.job.steps.train import train_step
from onceforall.job.tasks.inspect_net import fact_lines, network_facts
from onceforall.supernets.weights import load_saved_supernet
from tests.job.own_nets import make_small
from tests.job.tiny_run import SETTINGS, write_images

REST = {
    s.partition("=")[0]: s.partition("=")[2]
    for s in SETTINGS
    if not s.startswith(("supernet.", "train.plan"))
}
NET = "tests.job.own_nets:make_small"


def settings() -> dict[str, object]:
    values = {key: yaml.safe_load(text) for key, text in REST.items()}
    return {**values, "train.epochs": 2, "supernet.resolutions": [8, 12]}


def test_weights_of_ones_own_go_through_the_whole_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    weights = tmp_path / "mine.pth"
    torch.save(make_small().state_dict(), weights)
    images, out = write_images(tmp_path / "images.npz"), tmp_path / "run"
    done = ofa.run(images, out=out, net=NET, weights=weights, settings=settings())
    assert done.cards and all(card.resolution in (8, 12) for card in done.cards)
    assert "original" in (out / "run.yaml").read_text()
    # From here on nothing of the user's code is needed.
    monkeypatch.delitem(sys.modules, "tests.job.own_nets")
    monkeypatch.setattr("onceforall.job.outside_nets.make_network", None)
    for folder in model_folders(out):
        assert verify_folder(folder)["onnx_relative_error"] <= 1e-4
    loaded = ofa.load_model(model_folders(out)[0])
    assert isinstance(loaded.net, ofa.GraphNet)
    assert export_model(model_folders(out)[0], tmp_path / "net.pt2", form="pt2") == 0
    with pytest.raises(ConfigError, match="is for published families"):
        export_model(model_folders(out)[0], tmp_path / "net.json", form="config")
    page = (out / "report.html").read_text()
    assert "Stage 1" in page and "blocks.0" in page
    again = ofa.run(images, out=out, net=NET, weights=weights, settings=settings())
    assert [card.name for card in again.cards] == [card.name for card in done.cards]


def test_weights_make_training_short_and_gentle(tmp_path: Path) -> None:
    """Pictures of 48 pixels are enlarged for a network that is new to them, and only for that."""
    torch.manual_seed(0)
    weights = tmp_path / "mine.pth"
    torch.save(make_small().state_dict(), weights)
    images = write_images(tmp_path / "images.npz", scale=6)
    configs = []
    for name, more in (("fresh", []), ("known", weights_flags(NET, str(weights)))):
        request = Request(source=str(images), flags=(*net_flags(NET), *more, "train.epochs=1"))
        run = plan_run(request, tmp_path / name, tell=lambda event: None)
        configs.append(run.config)
    fresh, known = configs
    assert fresh.supernet.resolutions == (36, 48, 60) and fresh.train.plan == "delayed"
    assert fresh.supernet.width_ratios == (0.25, 0.5, 0.75, 1.0)
    assert known.supernet.resolutions == (36, 48) and known.train.plan == "original"
    assert known.supernet.width_ratios == (0.75, 1.0) and known.train.side == 1.0
    assert fresh.train.optimizer == known.train.optimizer == "sgd"
    (phase,) = known.plan(known.spec(3)).phases
    assert (phase.draw, phase.subnets_per_step, phase.teacher) == ("sandwich", 1, "none")
    assert known.train.distillation == "none"  # it knows nothing: weights drawn at random
    for changed, teachers in (
        ({"distillation": "soft_targets"}, ["frozen"]),
        ({"plan": "delayed", "distillation": None}, ["none", "in_place"]),
    ):
        train = known.train.model_copy(update=changed)
        phases = known.model_copy(update={"train": train}).plan(known.spec(3)).phases
        assert [phase.teacher for phase in phases] == teachers


def test_without_training_the_largest_is_the_original(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make_small().eval()
    weights = tmp_path / "mine.pth"
    torch.save(model.state_dict(), weights)
    images, out = write_images(tmp_path / "images.npz"), tmp_path / "run"
    flags = [*net_flags(NET), *weights_flags(NET, str(weights))]
    flags += [flag(key, value) for key, value in (settings() | {"train.epochs": 0}).items()]
    run = plan_run(Request(source=str(images), flags=tuple(flags)), out, tell=lambda event: None)
    train_step(run)
    net, _ = load_saved_supernet(run.folder.supernet)
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        assert torch.equal(net(x, net.space.largest), model(x))


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    assert is_factory("torchvision:resnet18") and is_factory("a.b:c")
    assert not is_factory("mynet.yaml") and not is_factory("C:/x") and not is_factory("ofa_x")
    with pytest.raises(ConfigError, match="torchvision has no classifier 'resnet19'"):
        make_network("torchvision:resnet19", num_classes=3)
    with pytest.raises(ConfigError, match="no_such_module"):
        make_network("no_such_module:net", num_classes=3)
    with pytest.raises(ConfigError, match="gave str"):
        make_network("tests.job.own_nets:make_nothing", num_classes=3)
    other = tmp_path / "other.pth"
    torch.save(make_small(num_classes=7).state_dict(), other)
    with pytest.raises(CheckpointError, match=r"head\.weight has shape \(7, 16\)"):
        load_weights(make_small(), other)
    load_weights(make_small(), other, reinit_head=True)
    torch.save({"stem": torch.zeros(1)}, other)
    with pytest.raises(CheckpointError, match="does not fit Small"):
        load_weights(make_small(), other)


def test_what_cannot_be_exported_is_refused_before_it_trains(tmp_path: Path) -> None:
    images, out = write_images(tmp_path / "images.npz"), tmp_path / "run"
    flags = (*net_flags("tests.job.own_nets:make_unwritable"), "train.epochs=1")
    request = Request(source=str(images), flags=flags)
    with pytest.raises(ConfigError, match=r"supernet: node softshrink: .* has no form in ONNX"):
        plan_run(request, out, tell=lambda event: None, steps=("train", "models"))
    assert not (out / "run.yaml").exists()
    plan_run(request, out, tell=lambda event: None, steps=("train",))
    # Also where the smallest subnet does without it.
    deep = Request(
        source=str(images),
        flags=(*net_flags("tests.job.own_nets:make_deep_unwritable"), "train.epochs=1"),
    )
    with pytest.raises(ConfigError, match=r"supernet: node softshrink: .* has no form in ONNX"):
        plan_run(deep, tmp_path / "deep", tell=lambda event: None, steps=("train", "models"))


def test_inspect_says_what_is_elastic() -> None:
    facts = network_facts(NET, resolution=16, num_classes=3)
    assert facts["genes"] == {"width_mult": 1, "depth": 1, "kernel_size": 2, "expand_ratio": 2}
    assert facts["kernel_sites"] == 2 and facts["skippable_blocks"] == 2
    assert facts["macs"]["smallest"] < facts["macs"]["largest"]
    lines = list(fact_lines(facts))
    assert lines[0] == f"{NET}  16 px, 3 classes" and any("kernel 3/5" in line for line in lines)
