"""A static network trained alone: the same engine, resume and shipping as a supernet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import onceforall
from onceforall.artifacts import Request
from onceforall.blueprint import Blueprint, Conv, GlobalPool, Linear, MBConv
from onceforall.errors import ConfigError
from onceforall.job.nets import static_flags
from onceforall.job.pipeline import run_all
from onceforall.measure.costs import count_macs
from onceforall.supernets.published.config_write import config_from_blueprint
from onceforall.supernets.spec import StaticSpec
from onceforall.supernets.static import build
from onceforall.supernets.static_families import STATIC_FAMILIES
from onceforall.supernets.supernet import Supernet
from onceforall.supernets.weights import load_saved_supernet, spec_from_json, spec_to_json
from tests.job.tiny_run import SETTINGS, write_images

PLAN = Blueprint(
    stem=(Conv(in_channels=3, out_channels=8, kernel_size=3),),
    blocks=(
        MBConv(in_channels=8, mid_channels=16, out_channels=8, kernel_size=3, residual=True),
        MBConv(in_channels=8, mid_channels=20, out_channels=16, kernel_size=5, stride=2),
    ),
    head=(
        Conv(in_channels=16, out_channels=24),
        GlobalPool(),
        Linear(in_features=24, out_features=7),
    ),
    stage_sizes=(1, 1),
)
FLAGS = tuple(
    flag for flag in SETTINGS if not flag.startswith(("supernet.", "train.epochs", "train.plan"))
)


@pytest.mark.parametrize("name", STATIC_FAMILIES)
def test_every_static_family_is_a_table_of_one_subnet(name: str) -> None:
    plan = STATIC_FAMILIES[name]()
    spec = StaticSpec(name=name, plan=plan, num_classes=4, resolutions=(32,))
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec
    net = Supernet(spec).eval()
    images, arch = torch.randn(1, 3, 32, 32), net.space.largest
    plain = net.extract(arch)
    assert net.space.size == 1
    assert torch.equal(plain(images), net(images, arch))
    # The very network: its own keys, under the published spellings too.
    twin = build(spec.blueprint(arch))
    assert {k: v.shape for k, v in plain.state_dict().items()} == {
        k: v.shape for k, v in twin.state_dict().items()
    }
    assert net.published_state_dict().keys() == twin.published_state_dict().keys()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "net.json"
    path.write_text(json.dumps({**config_from_blueprint(PLAN), "resolution": 8}))
    return path


def test_a_configuration_trains_resumes_and_ships(config: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "i.npz")

    def do(out: str, **how: object):
        request = Request(
            source=str(images), flags=(*static_flags(str(config)), *FLAGS, "train.epochs=3")
        )
        cpu = torch.device("cpu")
        return run_all(request, tmp_path / out, tell=lambda event: None, device=cpu, **how)

    asked = iter([False] * 9 + [True] * 9)
    with pytest.raises(Exception, match="the same command goes on"):
        do("a", until="train", should_stop=lambda: next(asked))
    resumed, straight = do("a"), do("b", until="train")
    (card,) = resumed.cards
    assert card.name == "net" and card.macs == count_macs(resumed.run.spec.plan, resolution=8) - (
        24 * (7 - 3)
    )
    assert card.top1 > 0.5
    assert resumed.run.folder.supernet.read_bytes() == straight.run.folder.supernet.read_bytes()
    assert [event["phase"] for event in straight.run.folder.read_events("epoch")] == ["alone"] * 3


def test_weights_come_along(config: Path, tmp_path: Path) -> None:
    images, model = write_images(tmp_path / "i.npz"), build(PLAN)
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": model.published_state_dict()}, weights)
    flags = (
        *static_flags(str(config), has_weights=True),
        *FLAGS,
        "train.epochs=0",
        f"train.init={weights}",
        "train.reinit_head=true",
    )
    request = Request(source=str(images), flags=flags)
    cpu = torch.device("cpu")
    done = run_all(request, tmp_path / "run", tell=lambda e: None, until="train", device=cpu)
    net, _ = load_saved_supernet(done.run.folder.supernet)
    plain = net.extract(net.space.largest)
    assert torch.equal(plain.stem[0].conv.weight, model.stem[0].conv.weight)


def test_one_call_trains_and_ships_it(config: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "i.npz")
    settings = {key: yaml.safe_load(value) for key, value in (f.split("=", 1) for f in FLAGS)}
    done = onceforall.run(
        images, out=tmp_path / "run", static=config, epochs=1, settings=settings, device="cpu"
    )
    (card,) = done.cards
    assert card.name == "net" and isinstance(done.run.spec, StaticSpec)
    with pytest.raises(ConfigError, match="are two networks: give one"):
        onceforall.run(images, out=tmp_path / "b", static=config, net="ofa_resnet50")


def test_what_is_no_network_is_said() -> None:
    with pytest.raises(ConfigError, match="not one of mobilenet_v3_large, mobilenet_v2"):
        static_flags("mobilenet_v9")
    with pytest.raises(ConfigError, match="no such file"):
        static_flags("none.json")
