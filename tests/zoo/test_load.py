"""Loading published networks: fresh, from local files, from the cache."""

from __future__ import annotations

import json
import shutil
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch

from onceforall.errors import CheckpointError, ConfigError, ZooError
from onceforall.published_archs import arch_from_published
from onceforall.supernets.families import published_spec
from onceforall.supernets.published.config_write import config_from_blueprint
from onceforall.supernets.static import StaticNet, build
from onceforall.supernets.supernet import Supernet
from onceforall.zoo import (
    Preprocessing,
    find_entry,
    load_config_net,
    load_proxylessnas,
    load_specialized,
    load_supernet,
)
from tests.shared_data import shared_data

MBV3 = "ofa_mbv3_d234_e346_k357_w1.0"
NOTE10 = "note10_lat@8ms_top1@71.4_finetune@25"
RESNET = "resnet50D_MAC@0.6B_top1@75.0_finetune@25"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network: whatever asks for it fails at once."""
    monkeypatch.setenv("ONCEFORALL_HOME", str(tmp_path / "home"))

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return tmp_path / "home"


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def save(net: Supernet | StaticNet, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": net.published_state_dict()}, path)
    return path


# -- supernets ------------------------------------------------------------------------------------


def test_a_supernet_without_weights() -> None:
    net = load_supernet(MBV3)
    assert isinstance(net, Supernet)
    assert not net.training
    assert net.spec == published_spec(MBV3)


def test_a_supernet_from_a_file_in_the_published_spelling(tmp_path: Path) -> None:
    source = Supernet(published_spec(MBV3))
    net = load_supernet(MBV3, save(source, tmp_path / "w"))
    assert same(net, source)
    assert same(load_supernet(MBV3, str(tmp_path / "w")), source)


def test_official_weights_come_from_the_cache(home: Path) -> None:
    source = Supernet(published_spec("ofa_resnet50", num_classes=1000))
    file = find_entry("ofa_resnet50").file("weights")
    save(source, home / "zoo" / file.cache_path)  # its checksum is not known
    assert same(load_supernet("ofa_resnet50", "official"), source)


def test_official_weights_without_network_say_where_to_put_them(home: Path) -> None:
    with pytest.raises(ZooError) as caught:
        load_supernet(MBV3, "official")
    message = str(caught.value)
    assert "\n" not in message
    url = "https://raw.githubusercontent.com/han-cai/files/master/ofa/ofa_nets/" + MBV3
    assert url in message
    assert "no network in tests" in message
    assert f"put it at {home / 'zoo' / 'ofa_nets' / MBV3}" in message


def test_another_number_of_classes_needs_a_fresh_head(tmp_path: Path) -> None:
    weights = save(Supernet(published_spec(MBV3)), tmp_path / "w")
    with pytest.raises(CheckpointError, match="it has 1000 classes where the network has 10"):
        load_supernet(MBV3, weights, num_classes=10)
    net = load_supernet(MBV3, weights, num_classes=10, reinit_head=True)
    assert net.layers[-1].linear.weight.shape == (10, 1280)


def test_a_supernet_is_not_a_specialised_network() -> None:
    with pytest.raises(ZooError, match="no published supernet"):
        load_supernet(NOTE10)
    with pytest.raises(ZooError, match="no published specialized"):
        load_specialized(MBV3)


# -- specialised networks -------------------------------------------------------------------------


def test_a_specialised_network_without_weights() -> None:
    net = load_specialized(NOTE10)
    assert (net.id, net.resolution) == (NOTE10, 160)
    assert net.arch == find_entry(NOTE10).arch
    assert net.published.top1 == 0.714
    assert net.preprocessing == Preprocessing(resolution=160, crop_ratio=0.875)
    assert not net.model.training
    with torch.no_grad():
        assert net.model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    with pytest.raises(FrozenInstanceError):
        net.resolution = 1


def test_an_alias_is_as_good_as_an_id() -> None:
    assert load_specialized("ofa-note10-08", num_classes=3).id == NOTE10


@pytest.mark.parametrize("kind", ["file", "folder", "extracted", "legacy"])
def test_a_specialised_network_from_local_weights(tmp_path: Path, kind: str) -> None:
    entry = find_entry(NOTE10)
    supernet = Supernet(published_spec(entry.supernet))
    source = supernet.extract(entry.arch)
    path = save(source, tmp_path / "init")
    if kind == "legacy":
        state = {
            key.replace(".conv.", ".mobile_inverted_conv.", 1) if "blocks." in key else key: tensor
            for key, tensor in source.published_state_dict().items()
        }
        torch.save({"state_dict": state}, path)
    net = load_specialized(NOTE10, tmp_path if kind == "folder" else path)
    assert same(net.model, source)


def test_resize_follows_the_published_rule() -> None:
    sizes = {size: Preprocessing.published(size).resize for size in (224, 192, 160, 128)}
    assert sizes == {224: 256, 192: 220, 160: 183, 128: 147}


# -- ResNet50D: the architecture is in its configuration ------------------------------------------


def resnet_files(folder: Path) -> StaticNet:
    spec = published_spec("ofa_resnet50")
    arch = arch_from_published(
        spec.space, {"d": [0, 0, 1, 0, 1], "e": 0.2, "w": [0, 0, 1, 0, 1, 0]}
    )
    plan = spec.blueprint(arch)
    model = build(plan)
    save(model, folder / "init")
    (folder / "net.config").write_text(json.dumps(config_from_blueprint(plan)))
    (folder / "run.config").write_text('{"image_size": 176}')
    return model


def test_a_resnet_without_its_configuration_says_what_to_do() -> None:
    with pytest.raises(ZooError) as caught:
        load_specialized(RESNET)
    message = str(caught.value)
    assert "its architecture is only in its published net.config (https://raw" in message
    assert "use weights='official', or a folder that has the file" in message
    entry = find_entry(RESNET)
    assert (entry.arch, entry.resolution) == (None, None)
    assert entry.published.macs_millions == 600
    with pytest.raises(ZooError, match=r"has its arch in its net.config"):
        entry.blueprint()


@pytest.mark.parametrize("where", ["folder", "cache"])
def test_a_resnet_with_its_configuration(tmp_path: Path, home: Path, where: str) -> None:
    folder = tmp_path / "local"
    if where == "cache":
        folder = (home / "zoo" / find_entry(RESNET).file("config").cache_path).parent
    source = resnet_files(folder)
    net = load_specialized(RESNET, folder if where == "folder" else "official")
    assert same(net.model, source)
    assert net.resolution == 176
    assert net.arch is not None
    assert published_spec("ofa_resnet50").blueprint(net.arch) == source.plan
    assert net.published.top1 == 0.75
    if where == "cache":
        fresh = load_specialized(RESNET, num_classes=5)
        assert fresh.model.plan.num_classes == 5


# -- ProxylessNAS and other configurations --------------------------------------------------------


def test_a_proxylessnas_network(tmp_path: Path) -> None:
    source = build(find_entry("proxyless_gpu").blueprint())
    net = load_proxylessnas("proxyless_gpu", save(source, tmp_path / "w"))
    assert same(net.model, source)
    assert (net.resolution, net.arch) == (224, None)
    with pytest.raises(ZooError, match="no published proxylessnas 'proxyless_cifar'"):
        load_proxylessnas("proxyless_cifar")


def config_file(folder: Path) -> Path:
    spec = published_spec("ofa_proxyless_d234_e346_k357_w1.3", num_classes=4)
    path = folder / "net.config"
    path.write_text(json.dumps(config_from_blueprint(spec.blueprint(spec.space.smallest))))
    return path


def test_a_configuration_says_its_resolution_or_its_neighbour_does(tmp_path: Path) -> None:
    path = config_file(tmp_path)
    with pytest.raises(ConfigError, match="says no resolution; give one"):
        load_config_net(path)
    assert load_config_net(path, resolution=96).preprocessing.resize == 110
    (tmp_path / "run.config").write_text('{"image_size": 144}')
    net = load_config_net(path)
    assert (net.id, net.resolution, net.published) == ("net", 144, None)
    config = {**json.loads(path.read_text()), "resolution": 128, "mean": [0.5, 0.5, 0.5]}
    net = load_config_net(config)
    assert (net.id, net.resolution) == ("ProxylessNASNets", 128)
    assert net.preprocessing.mean == (0.5, 0.5, 0.5)
    assert net.preprocessing.std == (0.229, 0.224, 0.225)
    assert not net.model.training


def test_unreadable_configurations_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing: no such file"):
        load_config_net(tmp_path / "missing", resolution=32)
    (tmp_path / "list").write_text("[]")
    with pytest.raises(ConfigError, match="list does not hold a JSON object"):
        load_config_net(tmp_path / "list", resolution=32)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    weights = save(build(find_entry("proxyless_gpu").blueprint()), tmp_path / "w")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_config_net(config_file(tmp_path), weights, resolution=32)


def test_released_configurations_load_from_their_folder(tmp_path: Path) -> None:
    folder = shared_data("published", "ofa_specialized", NOTE10.replace("@", "-"))
    net = load_config_net(folder / "net.config")
    assert net.resolution == 160
    assert net.model.plan == find_entry(NOTE10).blueprint()
    shutil.copytree(folder, tmp_path / "copy")
    torch.save(net.model.published_state_dict(), tmp_path / "copy" / "init")
    assert same(load_specialized(NOTE10, tmp_path / "copy").model, net.model)


@pytest.mark.parametrize(("side", "resize"), [(192, 220), (128, 147), (224, 256), (120, 138)])
def test_images_are_resized_as_a_run_does(side: int, resize: int) -> None:
    assert Preprocessing(resolution=side, crop_ratio=0.875).resize == resize
