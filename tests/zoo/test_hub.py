"""The published torch.hub page: its code runs unchanged, its settings are checked."""

from __future__ import annotations

import ast
import copy
import json
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onceforall.errors import ArchError, CheckpointError
from onceforall.published_archs import arch_from_published
from onceforall.supernets.families import published_spec, resnet50d
from onceforall.supernets.published.config_read import blueprint_from_config
from onceforall.supernets.published.config_write import config_from_blueprint
from onceforall.supernets.static import StaticNet, build
from onceforall.supernets.supernet import Supernet
from onceforall.zoo.entries import zoo_entries
from onceforall.zoo.hub import HubSpecialized, HubSupernet, hub_supernet, ofa_specialized
from tests.shared_data import REPOSITORY

ENTRY_POINTS = [
    "ofa_supernet_resnet50", "ofa_supernet_mbv3_w10", "ofa_supernet_mbv3_w12",
    "ofa_supernet_proxyless", "resnet50D_MAC_4_1B", "resnet50D_MAC_3_7B", "resnet50D_MAC_3_0B",
    "resnet50D_MAC_2_4B", "resnet50D_MAC_1_8B", "resnet50D_MAC_1_2B", "resnet50D_MAC_0_9B",
    "resnet50D_MAC_0_6B", "ofa_specialized_get",
]  # fmt: skip


@pytest.fixture(scope="module")
def mobilenet() -> HubSupernet:
    return hub_supernet("ofa_mbv3_d234_e346_k357_w1.0", pretrained=False)


@pytest.fixture(scope="module")
def resnet() -> HubSupernet:
    return HubSupernet(Supernet(resnet50d(num_classes=10)))


@pytest.fixture(autouse=True)
def keep_global_generator() -> Iterator[None]:
    state = random.getstate()
    yield
    random.setstate(state)


# -- the stateful shell ---------------------------------------------------------------------------


def test_the_largest_subnet_is_active_at_first(mobilenet: HubSupernet) -> None:
    mobilenet.set_max_net()
    assert mobilenet.arch == mobilenet.net.space.largest
    assert mobilenet.runtime_depth == [4] * 5


def test_the_active_subnet_runs_and_is_extracted(mobilenet: HubSupernet) -> None:
    mobilenet.eval()
    mobilenet.set_active_subnet(ks=[3, 5, 7, 3, 5] * 4, e=4, d=(2, 3, 4, 3, 2))
    subnet = mobilenet.get_active_subnet(preserve_weight=True)
    assert isinstance(subnet, StaticNet)
    assert not subnet.training
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(mobilenet(x), subnet(x))
    assert mobilenet.runtime_depth == [2, 3, 4, 3, 2]
    fresh = mobilenet.get_active_subnet(preserve_weight=False)
    assert fresh.plan == subnet.plan
    assert not torch.equal(fresh.stem[0].conv.weight, subnet.stem[0].conv.weight)


def test_settings_that_are_not_given_stay(mobilenet: HubSupernet) -> None:
    mobilenet.set_max_net()
    mobilenet.set_active_subnet(ks=5)
    mobilenet.set_active_subnet(d=3)
    mobilenet.set_active_subnet(e=[4, None] * 10)
    arch = mobilenet.arch
    assert {k for stage in arch.kernel_size for k in stage} == {5}
    assert arch.depth == (3,) * 5
    assert arch.expand_ratio == ((4, 6, 4, 6),) * 5
    mobilenet.set_active_subnet(ks=np.array([3] * 20), d=np.array([2] * 5))
    assert mobilenet.arch.depth == (2,) * 5
    assert all(type(d) is int for d in mobilenet.arch.depth)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 2}, r"no setting 'depth'; it has ks \(kernel sizes\), e \(expand ratios\), d"),
        ({"ks": 9}, r"kernel_size 9 is not one of \(3, 5, 7\)"),
        ({"ks": [3, 3]}, "ks has 2 entries where the network has 20"),
        ({"e": 5}, r"expand_ratio 5 is not one of \(3, 4, 6\)"),
        ({"d": 0}, r"d 0 of stage 0 is not one of \(2, 3, 4\)"),
        ({"d": 9}, r"d 9 of stage 0 is not one of \(2, 3, 4\)"),
        ({"w": 1}, "w 1: this network has no elastic width"),
    ],
)
def test_wrong_settings_are_refused_and_change_nothing(
    mobilenet: HubSupernet, settings: dict[str, Any], message: str
) -> None:
    before = mobilenet.arch
    with pytest.raises(ArchError, match=message):
        mobilenet.set_active_subnet(**settings)
    assert mobilenet.arch is before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"ks": 7, "e": 6, "d": 4},
            "ks 7: every kernel of a ResNet50D is 3; its settings: e, d, w",
        ),
        ({"e": 6}, r"expand_ratio 6 is not one of \(0.2, 0.25, 0.35\)"),
        ({"d": 4}, r"d\[0\] 4 \(the stem switch\) is not one of \(0, 1, 2\)"),
        ({"w": 0.65}, "w 0.65 is not an index into"),
    ],
)
def test_settings_of_a_mobilenet_are_refused_by_a_resnet(
    resnet: HubSupernet, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArchError, match=message):
        resnet.set_active_subnet(**settings)


def test_resnet_settings(resnet: HubSupernet) -> None:
    resnet.set_active_subnet(ks=3, d=[1, 0, 1, 2, 0], e=0.25, w=[0, 1, 2, 0, 1, 2])
    assert resnet.arch.stem_depth == 0
    assert resnet.arch.depth == (2, 3, 6, 2)
    assert resnet.runtime_depth == [2, 1, 0, 2]  # published ResNets count dropped blocks
    resnet.set_active_subnet(w=1)
    assert resnet.arch.width_mult == (0.8,) * 6
    assert resnet.arch.depth == (2, 3, 6, 2)


def test_the_active_configuration_is_json_and_the_subnet(
    mobilenet: HubSupernet, resnet: HubSupernet
) -> None:
    resnet.set_max_net()  # with the stem's residual convolution
    for shell in (mobilenet, resnet):
        config = json.loads(json.dumps(shell.get_active_net_config()))
        assert blueprint_from_config(config) == shell.net.blueprint(shell.arch)


def test_sampling_uses_the_global_generator_and_activates(mobilenet: HubSupernet) -> None:
    random.seed(5)
    first = mobilenet.sample_active_subnet()
    assert arch_from_published(mobilenet.net.space, first, resolution=224).key == mobilenet.arch.key
    second = mobilenet.sample_active_subnet()
    assert first != second
    random.seed(5)
    assert mobilenet.sample_active_subnet() == first


def test_a_specialised_network_is_a_module_and_a_pair() -> None:
    loaded = ofa_specialized("note10_lat@8ms_top1@71.4_finetune@25", pretrained=False)
    assert isinstance(loaded, HubSpecialized)
    net, image_size = loaded
    assert image_size == loaded[1] == 160
    assert net is loaded[0] is loaded.model
    assert len(loaded) == 2
    assert not net.training
    x = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), net(x))


# -- hubconf.py from a checkout -------------------------------------------------------------------

PAGE = """
import sys
import sympy  # a need of PyTorch's own, which it imports late
import torch

checkout, source = sys.argv[1:]
# An installed package would hide what hubconf.py does.
sys.path[:] = [path for path in sys.path if path != source]
before = {name.partition(".")[0] for name in sys.modules}


def load(name, **options):
    return torch.hub.load(checkout, name, source="local", **options)


super_net_name = "ofa_supernet_mbv3_w10"
super_net = load(super_net_name, pretrained=False).eval()
super_net.sample_active_subnet()
random_subnet = super_net.get_active_subnet(preserve_weight=True)
super_net.set_active_subnet(ks=7, e=6, d=4)
manual_subnet = super_net.get_active_subnet(preserve_weight=True)

net_config = "resnet50D_MAC_0_6B"
specialized_net = load(net_config, pretrained=True).eval()
net, image_size = load("resnet50D_MAC@0.6B_top1@75.0_finetune@25", pretrained=True)
ofa_specialized_get = load("ofa_specialized_get")
model = ofa_specialized_get("flops@595M_top1@80.0_finetune@75", pretrained=False)
images = torch.zeros(1, 3, 64, 64)
with torch.no_grad():
    output = model(images)
    shapes = [n(images).shape for n in (random_subnet, manual_subnet, specialized_net, net)]
assert shapes == [(1, 1000)] * 4 and output[0].shape == (1000,)
assert super_net.net.spec == load("ofa_mbv3_d234_e346_k357_w1.0", pretrained=False).net.spec

new = {
    name.partition(".")[0]
    for name, module in sys.modules.items()
    if "site-packages" in (getattr(module, "__file__", None) or "")
} - before
print("image_size", image_size, "imports", sorted(new))
"""


def test_every_published_entry_point_is_there() -> None:
    hubconf = runpy.run_path(str(REPOSITORY / "hubconf.py"))
    for name in ENTRY_POINTS:
        assert hubconf[name].__doc__
    ids = [entry.id for entry in zoo_entries().values() if entry.kind != "proxylessnas"]
    assert all(callable(hubconf[net_id]) for net_id in ids)
    loaded = hubconf["ofa_specialized_get"]()("ofa-note10-08", pretrained=False)
    assert loaded.image_size == 160
    assert hubconf["ofa_supernet_proxyless"](False).net.spec == published_spec(ids[2])


def test_the_page_runs_unchanged_from_a_checkout(tmp_path: Path) -> None:
    """With local weights in the cache folder, and neither installation nor network."""
    entry = zoo_entries()["resnet50D_MAC@0.6B_top1@75.0_finetune@25"]
    folder = (tmp_path / "zoo" / entry.file("weights").cache_path).parent
    folder.mkdir(parents=True)
    spec = published_spec("ofa_resnet50")
    plan = spec.blueprint(spec.space.smallest)
    torch.save({"state_dict": build(plan).published_state_dict()}, folder / "init")
    (folder / "net.config").write_text(json.dumps(config_from_blueprint(plan)))
    (folder / "run.config").write_text('{"image_size": 144}')
    script = tmp_path / "page.py"
    script.write_text(PAGE)
    environment = {**os.environ, "ONCEFORALL_HOME": str(tmp_path)}
    source = str(REPOSITORY / "src")
    result = subprocess.run(
        [sys.executable, str(script), str(REPOSITORY), source],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    size, imports = result.stdout.strip().removeprefix("image_size ").split(" imports ")
    assert size == "144"
    # Everything that is imported beside PyTorch's own needs is declared to torch.hub.
    dependencies = runpy.run_path(str(REPOSITORY / "hubconf.py"))["dependencies"]
    assert set(ast.literal_eval(imports)) <= set(dependencies)


# -- the argument forms of the published code -----------------------------------------------------


def test_settings_may_be_positional(mobilenet: HubSupernet, resnet: HubSupernet) -> None:
    mobilenet.set_active_subnet(7, [6, 4, 3, 6] * 5, 3)
    positional = mobilenet.arch
    mobilenet.set_active_subnet(ks=7, e=[6, 4, 3, 6] * 5, d=3)
    assert mobilenet.arch == positional
    resnet.set_active_subnet([2, 1, 0, 2, 1], 0.25, 1)
    positional = resnet.arch
    resnet.set_active_subnet(w=1, d=[2, 1, 0, 2, 1], e=0.25)
    assert resnet.arch == positional
    with pytest.raises(ArchError, match="ks is there twice"):
        mobilenet.set_active_subnet(7, ks=5)
    with pytest.raises(ArchError, match="4 values"):
        mobilenet.set_active_subnet(7, 6, 4, 1)


def test_random_subnets_keep_constraints(mobilenet: HubSupernet) -> None:
    mobilenet.set_constraint([2, 3])
    mobilenet.set_constraint([3, 5], constraint_type="kernel_size")
    drawn = [mobilenet.sample_active_subnet() for _ in range(20)]
    assert {depth for each in drawn for depth in each["d"]} == {2, 3}
    assert {kernel for each in drawn for kernel in each["ks"]} == {3, 5}
    assert all(len(each["ks"]) == len(each["e"]) == 20 for each in drawn), "all blocks are drawn"
    # One draw for each of the 20 kernels, 20 ratios and 5 depths, also where there is no choice.
    mobilenet.set_constraint([6], "expand_ratio")
    random.seed(5)
    found = mobilenet.sample_active_subnet()
    random.seed(5)
    kernels = [random.choice([3, 5]) for _ in range(20)]
    ratios = [random.choice([6]) for _ in range(20)]
    depths = [random.choice([2, 3]) for _ in range(5)]
    assert found == {"ks": kernels, "e": ratios, "d": depths}
    with pytest.raises(ArchError, match="kernel_size 9 is not one of"):
        mobilenet.set_constraint([9], "kernel_size")
    with pytest.raises(ArchError, match="'width' is not one of depth, expand_ratio, kernel_size"):
        mobilenet.set_constraint([1], "width")
    with pytest.raises(ArchError, match="options of each place"):
        mobilenet.set_constraint([[2], [3]])
    mobilenet.clear_constraint()
    drawn = [mobilenet.sample_active_subnet() for _ in range(20)]
    assert {depth for each in drawn for depth in each["d"]} == {2, 3, 4}


def test_constraints_leave_the_options_of_each_place(resnet: HubSupernet) -> None:
    """The third stage of a ResNet-50D has at least four blocks, the others at least two."""
    shell = HubSupernet(resnet.net)
    allowed = [stage.depths for stage in shell.net.space.stages]
    shared = sorted(set.intersection(*map(set, allowed)))
    shell.set_constraint([*shared, min(map(min, allowed))])
    for _ in range(20):
        shell.sample_active_subnet()
        for depth, depths in zip(shell.arch.depth, allowed, strict=True):
            assert depth in depths


def test_sorting_channels_leaves_the_largest_subnet(resnet: HubSupernet) -> None:
    shell = HubSupernet(Supernet(resnet.net.spec).double()).eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights, logits = copy.deepcopy(shell.state_dict()), shell(x)
    shell.re_organize_middle_weights()
    assert not all(map(torch.equal, weights.values(), shell.state_dict().values()))
    assert torch.allclose(shell(x), logits, rtol=0, atol=1e-10)


def test_published_keys_are_loaded(mobilenet: HubSupernet) -> None:
    other = hub_supernet("ofa_mbv3_d234_e346_k357_w1.0", pretrained=False)
    other.load_state_dict(mobilenet.published_state_dict())
    assert all(map(torch.equal, other.state_dict().values(), mobilenet.state_dict().values()))
    third = hub_supernet("ofa_mbv3_d234_e346_k357_w1.0", pretrained=False)
    third.load_state_dict(mobilenet.state_dict())
    assert all(map(torch.equal, third.state_dict().values(), mobilenet.state_dict().values()))
    some = dict(list(mobilenet.published_state_dict().items())[:5])
    with pytest.raises(CheckpointError):
        other.load_state_dict(some)


def test_configurations_have_their_published_names(mobilenet: HubSupernet) -> None:
    mobilenet.set_active_subnet(ks=3, e=3, d=2)
    assert mobilenet.config == mobilenet.get_active_subnet().config
    assert json.loads(json.dumps(mobilenet.config))["name"] == "MobileNetV3"
    assert blueprint_from_config(mobilenet.config) == mobilenet.net.blueprint(mobilenet.arch)
