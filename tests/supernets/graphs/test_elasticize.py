"""Any network elastic: the largest is the original, and what is cut is what is masked."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onceforall.arch import Arch
from onceforall.encoding import Encoding
from onceforall.errors import ArchError, BlueprintError
from onceforall.graph import Node, Ref
from onceforall.search.moves import _listed
from onceforall.supernets.graphs.elasticize import ElasticChoices, elasticize
from onceforall.supernets.graphs.run import _function
from onceforall.supernets.graphs.supernet import GraphSupernet
from tests.supernets.graphs.tiny import (
    SIDE,
    Attention,
    Block,
    Body,
    conv,
    elastic,
    friendly,
    growing,
    masked,
    shuffled,
)

NAMES = tuple(friendly())


def images(count: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(
        count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=dtype
    )


def some_archs(net: GraphSupernet) -> list[Arch]:
    rng = random.Random(0)
    return [net.space.smallest, *(net.space.sample(rng) for _ in range(3))]


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return friendly()[request.param]


def test_the_largest_subnet_is_the_network_and_that_is_left_alone(model: nn.Module) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    net = elasticize(model, torch.zeros(1, 3, SIDE, SIDE))
    assert all(part.training for part in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    net.model.apply(lambda part: [p.data.zero_() for p in part.parameters(recurse=False)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    net = elastic(model)
    with torch.no_grad():
        assert torch.equal(net(images(3), net.space.largest), model.eval()(images(3)))


def test_cut_is_masked_and_extracted_is_elastic(model: nn.Module) -> None:
    net = shuffled(elastic(model))
    for arch in some_archs(net):
        x = images(dtype=torch.float64)
        with torch.no_grad():
            plain = net.extract(arch)
            assert torch.equal(net(images(), arch), plain(images()))
            found = copy.deepcopy(net).double()(x, arch)
        expected = masked(net, model, arch, x)
        assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
        assert len({float(row.sum()) for row in found}) == len(x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_what_is_cut_needs_gradients_as_the_whole_does(mode: Callable[[], Any]) -> None:
    """``torch.matmul`` takes another way for weights that do, even where none are kept."""
    torch.manual_seed(0)
    net = shuffled(elastic(Attention()))
    with mode():
        tensors = net._tensors(net._plan(net.space.smallest))
        flags = {key: value.requires_grad for key, value in tensors.items()}
        assert any(flags.values())
        assert flags == {key: net._stored()[key].requires_grad for key in tensors}
        net(images(), net.space.smallest)


def test_every_network_is_elastic_where_it_can_be() -> None:
    torch.manual_seed(0)
    axes = {
        name: sorted({gene.axis for gene in elastic(model).space.genes})
        for name, model in friendly().items()
    }
    assert axes["blocks"] == ["depth", "expand_ratio", "kernel_size", "width_mult"]
    assert axes["attention"] == ["depth", "expand_ratio", "width_mult"]
    assert axes["pre_activation"] == ["depth", "expand_ratio", "width_mult"]
    assert "kernel_size" in axes["multiplier"]
    assert all("width_mult" in each for each in axes.values())


def test_heads_go_whole_and_attention_goes_with_its_perceptron() -> None:
    torch.manual_seed(0)
    net = elastic(Attention())
    heads = [group for group in net.spec.groups if group.units == 6]
    assert len(heads) == 3 and {group.channels_per_unit for group in heads} == {12}
    ((stage),) = net.spec.stages
    assert [len(block.skips) for block in stage] == [2, 2, 2]
    assert net.space.stages[0].depths == (1, 2, 3)


@pytest.mark.parametrize("pads", [False, True])
def test_blocks_that_add_channels_are_skipped_to_their_shortcut_and_zeros(pads: bool) -> None:
    torch.manual_seed(0)
    model = growing(pads=pads)
    net = elastic(model)
    assert net.space.stages[0].depths == (1, 2, 3, 4)
    shortest = net.extract(replace(net.space.largest, depth=(1,)))
    ops = [node.op for node in shortest.plan.nodes]
    assert ops.count("conv2d.default") == 2  # the stem and the block that always runs
    with torch.no_grad():
        x = model.eval().body[0](model.stem(images()))  # type: ignore[index]
        expected = model.head(F.pad(x, (0, 0, 0, 0, 0, 48 - 16)).mean((2, 3)))
        torch.testing.assert_close(shortest(images()), expected)


def test_narrow_channels_that_blocks_share_stay_whole() -> None:
    torch.manual_seed(0)
    model = Body(nn.Sequential(Block(16, 32), Block(16, 32)))
    below, above = (
        elasticize(model, torch.zeros(1, 3, SIDE, SIDE), choices=ElasticChoices(whole_below=n))
        for n in (16, 17)
    )
    assert {gene.axis for gene in below.space.genes} >= {"width_mult", "expand_ratio"}
    assert "width_mult" not in {gene.axis for gene in above.space.genes}
    assert above.blueprint(above.space.smallest).shape("stem.0.weight")[0] == 16
    assert above.blueprint(above.space.smallest).shape("body.0.expand.0.weight")[0] == 8


def test_order_changes_nothing_of_the_largest_and_keeps_the_important() -> None:
    torch.manual_seed(0)
    model = Body(nn.Sequential(conv(16, 32), conv(32, 16)))
    with torch.no_grad():
        model.body[0][0].weight[:8] *= 1e-3  # type: ignore[index]
    net = elastic(model)
    with torch.no_grad():
        before = net(images(), net.space.largest)
        small = net.space.smallest
        first = net.extract(small)
        net.sort_channels()
        assert torch.equal(net(images(), net.space.largest), before)
        again = net.extract(small)
    kept = again.get_submodule("body.0")._modules["0"].weight.abs().mean()  # type: ignore[union-attr]
    lost = first.get_submodule("body.0")._modules["0"].weight.abs().mean()  # type: ignore[union-attr]
    assert kept.item() > 100 * lost.item()  # type: ignore[operator, union-attr]


def test_training_moves_what_runs_and_nothing_else() -> None:
    torch.manual_seed(0)
    net = shuffled(elastic(Body(nn.Sequential(Block(16, 32), Block(16, 32)))))
    net.train()
    arch = net.space.smallest
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net(images(4), arch).sum().backward()
    assert net.model.get_submodule("body.1.expand")._modules["0"].weight.grad is None  # type: ignore[union-attr]
    stem = net.model.get_submodule("stem")
    used = stem._modules["0"].weight.grad.abs().sum((1, 2, 3)) > 0  # type: ignore[union-attr, operator]
    assert int(used.sum()) == net.blueprint(arch).norms[0].channels
    moved = net.state_dict()["model.stem.1.running_mean"] != before["model.stem.1.running_mean"]
    assert torch.equal(moved, used)
    assert int(net.state_dict()["model.stem.1.num_batches_tracked"]) == 1
    grads = [matrix.grad for matrix in net.transforms.values()]
    assert grads[0] is not None and grads[0].abs().sum() > 0


def test_several_resolutions_are_traced_each() -> None:
    torch.manual_seed(0)
    model = Body(nn.Sequential(Block(16, 32), Block(16, 32)))
    net = elasticize(model, torch.zeros(1, 3, 16, 16), choices=ElasticChoices(resolutions=(16, 24)))
    assert net.space.resolutions == (16, 24)
    arch = net.space.uniform(resolution=24)
    x = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(net(x, arch), model.eval()(x))
    assert net.blueprint(arch).nodes[1].sizes[2:] == (12, 12)
    with pytest.raises(BlueprintError, match=r"choose one resolution|cannot be traced"):
        elasticize(
            Attention(), torch.zeros(1, 3, 16, 16), choices=ElasticChoices(resolutions=(16, 24))
        )


def test_an_arch_outside_is_refused() -> None:
    torch.manual_seed(0)
    net = elastic(Body(conv(16, 16)))
    other = elastic(Body(nn.Sequential(Block(16, 32), Block(16, 32))))
    with pytest.raises(ArchError, match="stages"):
        net(images(), other.space.largest)


def test_a_map_of_one_size_is_known_to_be() -> None:
    assert not elastic(friendly()["flat"]).spec.any_resolution
    assert elastic(friendly()["blocks"]).spec.any_resolution
    pooled = Body(nn.Sequential(conv(16, 16), nn.AvgPool2d(8)))
    assert not elastic(pooled).spec.any_resolution


def test_moves_of_a_search_have_options_that_exist() -> None:
    net = elastic(friendly()["blocks"])
    encoding = Encoding(net.space)
    sizes = [len(gene.choices) for gene in encoding.genes]
    assert len(set(sizes)) > 1, "blocks differ in their kernels"
    for move in _listed(encoding):
        for column, option in {**move.always, **move.if_new}.items():
            assert 0 <= option < sizes[column]


def test_channels_are_dropped_as_a_whole() -> None:
    node = Node(name="drop", op="feature_dropout.default", args=(Ref(0), 0.5, True))
    drop = _function(node, lambda name, x: x, nn.Module().train())
    kept = drop(torch.ones(8, 16, 4, 4)).flatten(2)
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(kept.amin(2), kept.amax(2)), "a channel goes, or stays, as a whole"
