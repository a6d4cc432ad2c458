"""The space around a trained network holds it, and its largest subnet computes the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from onceforall.artifacts import Request
from onceforall.blueprint import Blueprint, Conv, GlobalPool, Identity, Linear, MBConv
from onceforall.errors import ConfigError
from onceforall.job.start import plan_run
from onceforall.job.transfer import read_start
from onceforall.job.weights import load_initial_weights, new_supernet
from onceforall.supernets.around import embed, space_around
from onceforall.supernets.static import build
from onceforall.supernets.static_families import resnet50d
from onceforall.supernets.supernet import Supernet
from tests.job.tiny_run import write_images
from tests.shared_data import shared_data


def mbconv(into: int, out: int, kernel: int, ratio: float, stride: int = 1) -> MBConv:
    return MBConv(
        in_channels=into,
        mid_channels=round(into * ratio),
        out_channels=out,
        kernel_size=kernel,
        stride=stride,
        expand_ratio=ratio,
        activation="relu6",
        residual=stride == 1 and into == out,
    )


def searched_net() -> Blueprint:
    """A small network as a search leaves it: mixed kernels and ratios, a block that is skipped."""
    first = MBConv(
        in_channels=16, mid_channels=16, out_channels=8, kernel_size=3, activation="relu6",
        has_expansion=False,
    )  # fmt: skip
    blocks = (
        first, mbconv(8, 16, 5, 3, 2), mbconv(16, 16, 3, 6), Identity(),
        mbconv(16, 24, 7, 6, 2), mbconv(24, 24, 5, 3),
    )  # fmt: skip
    return Blueprint(
        stem=(Conv(in_channels=3, out_channels=16, kernel_size=3, stride=2, activation="relu6"),),
        blocks=blocks,
        head=(
            Conv(in_channels=24, out_channels=48, activation="relu6"),
            GlobalPool(),
            Linear(in_features=48, out_features=10),
        ),
        stage_sizes=(1, 3, 2),
        norm_eps=1e-3,
    )


def trained(plan: Blueprint) -> torch.nn.Module:
    """Return a network whose batch norm has seen images."""
    torch.manual_seed(0)
    model = build(plan)
    for _ in range(5):
        model(torch.randn(8, 3, 48, 48))
    return model.eval()


def test_the_network_is_a_subnet_and_the_largest_computes_the_same() -> None:
    plain = trained(searched_net())
    net = Supernet(space_around(searched_net(), num_classes=10, resolutions=(32, 48))).eval()
    arch = embed(net, plain)  # type: ignore[arg-type]
    images = torch.randn(4, 3, 48, 48)
    with torch.no_grad():
        expected = plain(images)
        torch.testing.assert_close(net(images, arch), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(net(images, net.space.largest), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(net(images, net.space.smallest), expected, atol=1e-2)
    assert arch.depth == (2, 2) and arch.kernel_size == ((5, 3), (7, 5))
    assert net.space.smallest.depth == (1, 1)


def test_further_channels_can_learn() -> None:
    net = Supernet(space_around(searched_net(), num_classes=10, resolutions=(48,)))
    embed(net, trained(searched_net()))  # type: ignore[arg-type]
    net(torch.randn(4, 3, 48, 48), net.space.largest).square().sum().backward()
    widened = net.layers[2].point_linear.conv.weight  # ratio 3 of (2, 3, 6)
    gradient = widened.grad
    assert gradient is not None and (gradient[:, 24:] != 0).all(dim=0).any()


def test_a_classifier_of_other_classes_stays_fresh() -> None:
    torch.manual_seed(1)
    net = Supernet(space_around(searched_net(), num_classes=4, resolutions=(48,)))
    before = net.layers[-1].linear.weight.clone()
    embed(net, trained(searched_net()))  # type: ignore[arg-type]
    assert torch.equal(net.layers[-1].linear.weight, before)


def test_other_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="a stem of one convolution and MBConv blocks"):
        space_around(resnet50d(), num_classes=10, resolutions=(224,))


def test_a_checkpoint_needs_to_say_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"needs net\.json beside it"):
        read_start(tmp_path / "net.pth", num_classes=10)


def test_auto_starts_from_real_weights_where_they_are_given(tmp_path: Path) -> None:
    weights = shared_data("weights", "proxyless-w0.3-r176_imagenet.pth")
    request = Request(
        source=str(write_images(tmp_path / "images.npz")),
        flags=(
            f"train.init={json.dumps(str(weights))}",
            "train.epochs=1",
            "train.threads=1",
            "data.mean=[0.5,0.5,0.5]",
            "data.std=[0.5,0.5,0.5]",
        ),
    )
    run = plan_run(request, tmp_path / "run", tell=lambda event: None)
    assert run.bundle.mean == run.bundle.std == (0.5, 0.5, 0.5)
    assert run.spec.norm_eps == 1e-3
    net = new_supernet(run)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    load_initial_weights(run, net)
    changed = [name for name, tensor in net.state_dict().items() if not tensor.equal(before[name])]
    assert len(changed) > 100 and not any("linear" in name.split(".") for name in changed)


def test_the_transfer_recipe_needs_weights(tmp_path: Path) -> None:
    source = str(write_images(tmp_path / "images.npz"))
    with pytest.raises(ConfigError, match="needs a trained network: --init FILE"):
        plan_run(
            Request(source=source, recipe="transfer"), tmp_path / "run", tell=lambda event: None
        )
