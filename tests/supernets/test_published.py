"""Checkpoints under the published names, in every spelling, loaded whole or not at all."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from onceforall.errors import BlueprintError, CheckpointError
from onceforall.supernets.families import mobilenet_v3, proxylessnas, small_images
from onceforall.supernets.published.checkpoint import LoadReport, load_published, read_weights
from onceforall.supernets.static import StaticNet, build
from onceforall.supernets.static_families import mobilenet_v3_large
from onceforall.supernets.supernet import Supernet
from tests.supernets.families import SPECS

State = dict[str, Tensor]


def filled(net: Supernet | StaticNet, seed: int) -> Supernet | StaticNet:
    """Give every tensor other values, so that what is not loaded shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            else:
                tensor.fill_(seed)
    return net


def equal(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def doubled(key: str) -> str:
    """Spell a static MobileNet key as a supernet does."""
    if key.startswith("blocks.") and not key.startswith("blocks.0."):
        key = re.sub(r"\.conv\.weight$", ".conv.conv.weight", key)
        key = key.replace(".bn.", ".bn.bn.")
    return key


def legacy(key: str) -> str:
    return re.sub(r"^(blocks\.\d+)\.conv\.", r"\1.mobile_inverted_conv.", key)


# -- spellings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_a_supernet_reads_what_it_writes(name: str) -> None:
    source, target = filled(Supernet(SPECS[name]()), 1), filled(Supernet(SPECS[name]()), 2)
    assert not equal(source.state_dict(), target.state_dict())
    assert load_published(target, source.published_state_dict()) == LoadReport()
    assert equal(source.state_dict(), target.state_dict())


@pytest.mark.parametrize("name", SPECS)
def test_an_extracted_network_reads_what_it_writes(name: str) -> None:
    spec = SPECS[name]()
    plan = spec.blueprint(spec.space.sample(random.Random(0)))
    source, target = filled(build(plan), 1), filled(build(plan), 2)
    assert load_published(target, source.published_state_dict()) == LoadReport()
    assert equal(source.state_dict(), target.state_dict())


@pytest.mark.parametrize("spell", [legacy, lambda k: f"module.{k}", lambda k: legacy(doubled(k))])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_static_network_reads_every_spelling(spell: object, prefix: str) -> None:
    plan = mobilenet_v3_large(num_classes=10)
    source, target = filled(build(plan), 1), filled(build(plan), 2)
    state = {prefix + spell(key): t for key, t in source.published_state_dict().items()}
    state = {key.replace("module.module.", "module."): t for key, t in state.items()}
    load_published(target, state)
    assert equal(source.state_dict(), target.state_dict())


def test_a_supernet_reads_files_from_before_the_renaming() -> None:
    source, target = (filled(Supernet(SPECS["proxyless_w1.3"]()), seed) for seed in (1, 2))
    state = {legacy(key): t for key, t in source.published_state_dict().items()}
    assert any("mobile_inverted_conv" in key for key in state)
    load_published(target, state)
    assert equal(source.state_dict(), target.state_dict())


def test_our_own_names_are_read_as_well() -> None:
    source, target = (filled(Supernet(small_images(num_classes=10)), seed) for seed in (1, 2))
    load_published(target, source.state_dict())
    assert equal(source.state_dict(), target.state_dict())


def test_the_teacher_becomes_the_largest_subnet() -> None:
    plan = mobilenet_v3_large(num_classes=10, kernel_size=7, expand_ratio=6, depth=4, dropout=0)
    torch.manual_seed(0)
    teacher = build(plan).eval()
    net = filled(Supernet(mobilenet_v3(num_classes=10)), 2).eval()
    report = load_published(net, teacher.published_state_dict())
    assert report == LoadReport(identity_transforms=40)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(net(x, net.space.largest), teacher(x))
    transform = net.published_state_dict()["blocks.1.conv.depth_conv.conv.7to5_matrix"]
    assert torch.equal(transform, torch.eye(25))


def test_values_keep_the_dtype_of_the_network() -> None:
    source = filled(Supernet(small_images(num_classes=10)), 1)
    target = Supernet(small_images(num_classes=10)).double()
    load_published(target, source.published_state_dict())
    assert target.layers[0].conv.weight.dtype == torch.float64


# -- what does not fit ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> Supernet:
    return filled(Supernet(proxylessnas(num_classes=10, width_mult=0.35)), 1)


def damaged(net: Supernet) -> State:
    return dict(net.published_state_dict())


def test_every_problem_is_listed_and_nothing_is_loaded(net: Supernet) -> None:
    state = {key: tensor + 1 for key, tensor in damaged(net).items()}
    missing = ["first_conv.bn.weight", "blocks.3.conv.point_linear.conv.conv.weight"]
    for key in missing:
        del state[key]
    state["blocks.99.conv.point_linear.conv.conv.weight"] = torch.zeros(1)
    state["optimizer"] = torch.zeros(1)
    state["classifier.linear.bias"] = torch.zeros(10, 2)
    state["module.feature_mix_layer.bn.bias"] = torch.zeros(1)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_published(net, state)
    message = str(caught.value)
    assert "\n" not in message
    assert f"missing {', '.join(missing)}" in message
    assert "unexpected blocks.99.conv.point_linear.conv.conv.weight, optimizer" in message
    assert "wrong shape: classifier.linear.bias (10, 2) where the network has (10,)" in message
    assert "given twice: module.feature_mix_layer.bn.bias" in message
    assert equal(net.state_dict(), before)


def test_an_empty_checkpoint_is_refused_key_by_key(net: Supernet) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_published(net, {})
    assert "first_conv.conv.weight" in str(caught.value)
    assert "classifier.linear.bias" in str(caught.value)


def test_a_single_missing_transform_is_refused(net: Supernet) -> None:
    state = damaged(net)
    del state["blocks.4.conv.depth_conv.conv.7to5_matrix"]
    with pytest.raises(CheckpointError, match=r"missing blocks.4.conv.depth_conv.conv.7to5_matrix"):
        load_published(net, state)


def test_a_full_kernel_checkpoint_sets_all_transforms_to_the_identity(net: Supernet) -> None:
    target = filled(Supernet(net.spec), 5)
    state = {k: t for k, t in damaged(net).items() if not k.endswith("_matrix")}
    assert load_published(target, state) == LoadReport(identity_transforms=42)
    for key, tensor in target.published_state_dict().items():
        if key.endswith("_matrix"):
            assert torch.equal(tensor, torch.eye(len(tensor)))
        else:
            assert torch.equal(tensor, state[key])


def test_transforms_that_the_network_has_not_are_refused(net: Supernet) -> None:
    rigid = tuple(replace(stage, kernel_sizes=(7,)) for stage in net.spec.stages)
    target = Supernet(replace(net.spec, stages=rigid))
    with pytest.raises(
        CheckpointError, match=r"unexpected blocks.1.conv.depth_conv.conv.5to3_matr"
    ):
        load_published(target, net.published_state_dict())


def test_batch_counters_may_be_absent_altogether(net: Supernet) -> None:
    target = filled(Supernet(net.spec), 5)
    counter = "num_batches_tracked"
    load_published(target, {k: t for k, t in damaged(net).items() if not k.endswith(counter)})
    assert {int(t) for k, t in target.state_dict().items() if k.endswith(counter)} == {0}
    state = damaged(net)
    del state[f"first_conv.bn.{counter}"]
    with pytest.raises(CheckpointError, match=f"missing first_conv.bn.{counter}"):
        load_published(target, state)


def test_another_number_of_classes_is_said_and_has_a_way(net: Supernet) -> None:
    target = filled(Supernet(proxylessnas(num_classes=4, width_mult=0.35)), 5)
    own_head = target.layers[-1].linear.weight.clone()
    with pytest.raises(
        CheckpointError,
        match=r"it has 10 classes where the network has 4; .*--reinit-head. keeps the network's",
    ):
        load_published(target, net.published_state_dict())
    report = load_published(target, net.published_state_dict(), reinit_head=True)
    assert report == LoadReport(fresh_head=True)
    assert torch.equal(target.layers[-1].linear.weight, own_head)
    assert torch.equal(target.layers[0].conv.weight, net.layers[0].conv.weight)
    headless = {k: t for k, t in damaged(net).items() if not k.startswith("classifier")}
    load_published(target, headless, reinit_head=True)
    with pytest.raises(CheckpointError, match=r"missing classifier.linear.weight"):
        load_published(net, headless)


def test_a_network_without_published_names_says_so() -> None:
    plan = mobilenet_v3_large()
    first = plan.head[0]
    twice = replace(plan, head=(first, replace(first, in_channels=960), *plan.head[1:]))
    with pytest.raises(BlueprintError, match="one name for two layers"):
        build(twice).published_state_dict()


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
def test_torch_files_are_read_wrapped_or_not(tmp_path: Path, net: Supernet, wrap: object) -> None:
    state = net.published_state_dict()
    torch.save(wrap(state), tmp_path / "weights")
    assert equal(read_weights(tmp_path / "weights"), dict(state))


def test_safetensors_files_are_read(tmp_path: Path, net: Supernet) -> None:
    state = {k: t.clone() for k, t in net.published_state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    assert equal(read_weights(tmp_path / "w.safetensors"), state)


class Payload:
    """Would write a file if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (exec, ("raise SystemExit('executed')",))


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Payload()}, tmp_path / "evil")
    with pytest.raises(CheckpointError, match="is not a readable weights file"):
        read_weights(tmp_path / "evil")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_files_are_named(tmp_path: Path, net: Supernet, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(CheckpointError, match=f"no weights file at .*{name}"):
        read_weights(path)
    path.write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=f"{name} is not a readable"):
        read_weights(path)
    torch.save(net.published_state_dict(), tmp_path / "whole")
    path.write_bytes((tmp_path / "whole").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=f"{name} is not a readable"):
        read_weights(path)


def test_files_of_other_things_are_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list")
    with pytest.raises(CheckpointError, match="does not hold tensors by name"):
        read_weights(tmp_path / "list")
    torch.save({"a": 1}, tmp_path / "numbers")
    with pytest.raises(CheckpointError, match="does not hold tensors by name"):
        read_weights(tmp_path / "numbers")
