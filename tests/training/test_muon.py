"""Muon: what its steps are, and which weights it trains."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from onceforall.supernets.blocks import ConvUnit
from onceforall.supernets.elastic_blocks import ElasticConvUnit
from onceforall.supernets.families import dense_images, mobilenet_v3
from onceforall.supernets.supernet import Supernet
from onceforall.training.muon import Muon, orthogonalized
from onceforall.training.optimizer import make_optimizer, set_learning_rate
from onceforall.training.plan import Plan, sandwich_plan
from onceforall.training.standing import new_optimizer
from tests.training.test_engine import run_straight
from tests.training.tiny import tiny_net


def muon_of(weight: nn.Parameter, *, momentum: float = 0.9, lr: float = 0.1) -> Muon:
    optimizer = Muon([{"params": [weight]}], momentum=momentum)
    optimizer.param_groups[0]["lr"] = lr
    return optimizer


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 16, 16)])
def test_singular_values_become_alike_and_vectors_stay(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalized(matrices)
    assert found.shape == shape
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ found @ right.mT
    ends = inside.diagonal(dim1=1, dim2=2)
    assert (ends > 0.6).all() and (ends < 1.3).all()
    torch.testing.assert_close(inside, torch.diag_embed(ends), atol=1e-4, rtol=0)


def test_iterating_on_the_gram_matrix_is_the_published_iteration() -> None:
    matrices = torch.randn(2, 6, 11, generator=torch.Generator().manual_seed(0)).double()
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalized(matrices), x, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(orthogonalized(matrices.float()).double(), x, rtol=0, atol=1e-5)


def test_what_is_not_there_stays_away() -> None:
    """The gradient of a narrow subnet is a block of a matrix: so is its step."""
    matrix = torch.zeros(1, 8, 12)
    matrix[:, :4, :6] = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    found = orthogonalized(matrix)
    assert found[:, 4:].abs().max() == 0 and found[:, :, 6:].abs().max() == 0
    assert found[:, :4, :6].norm() == pytest.approx(2, rel=0.2)
    assert torch.equal(orthogonalized(torch.zeros(1, 3, 5)), torch.zeros(1, 3, 5))


def test_a_step_turns_a_weight_by_its_rate_and_keeps_its_length() -> None:
    torch.manual_seed(0)
    for scale in (1e-3, 1.0, 1e3):
        weight = nn.Parameter(scale * torch.randn(16, 8, 3, 3))
        before = weight.detach().clone()
        weight.grad = torch.randn(16, 8, 3, 3)
        muon_of(weight, lr=0.1).step()
        assert float(weight.detach().norm()) == pytest.approx(float(before.norm()), rel=1e-5)
        cosine = torch.cosine_similarity(weight.detach().flatten(), before.flatten(), dim=0)
        assert math.acos(float(cosine)) == pytest.approx(0.1, rel=0.25)


def test_the_size_of_a_gradient_does_not_matter_its_momentum_does() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(6, 4, 1, 1), torch.randn(2, 6, 4, 1, 1)
    ends = []
    for scale, momentum in ((1.0, 0.9), (100.0, 0.9), (1.0, 0.0)):
        weight = nn.Parameter(start.clone())
        optimizer = muon_of(weight, momentum=momentum)
        for gradient in gradients:
            weight.grad = scale * gradient
            optimizer.step()
        ends.append(weight.detach())
    torch.testing.assert_close(ends[0], ends[1])
    assert not torch.allclose(ends[0], ends[2])


def test_no_gradient_no_step_and_zeros_stay() -> None:
    weight, still = nn.Parameter(torch.zeros(4, 4, 1, 1)), nn.Parameter(torch.randn(4, 4, 1, 1))
    before = still.detach().clone()
    weight.grad = torch.randn(4, 4, 1, 1)
    optimizer = Muon([{"params": [weight, still]}], momentum=0.9)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert torch.equal(weight, torch.zeros(4, 4, 1, 1)) and torch.equal(still, before)


def test_it_trains_inner_convolutions_without_a_bias_and_nothing_else() -> None:
    residual = dense_images(
        block="residual", num_classes=3, resolutions=(8,), widths=(8, 16), strides=(1, 2),
        depths=(1, 2), expand_ratios=(0.5, 1.0), width_mults=(), stem_width=8, stem_stride=1,
        divisor=8,
    )  # fmt: skip
    nets = [Supernet(residual), Supernet(mobilenet_v3(num_classes=3, resolutions=(32,)))]
    for net in nets:
        optimizer = make_optimizer(net, momentum=0.9, weight_decay=0.0, muon_factor=0.1)
        turned = {id(p) for p in optimizer.parts[1].param_groups[0]["params"]}
        assert len(optimizer.parts) == 2
        everything = [p for group in optimizer.param_groups for p in group["params"]]
        assert len({id(p) for p in everything}) == len(everything) == len(list(net.parameters()))
        for name, parameter in net.named_parameters():
            is_conv = parameter.ndim == 4 and parameter.shape[1] > 3
            norm = net
            for part in name.split(".")[:-2]:
                norm = getattr(norm, part)
            has_norm = getattr(norm, "bn", None) is not None
            assert (id(parameter) in turned) == (is_conv and has_norm), name
        units = [m for m in net.modules() if isinstance(m, ConvUnit | ElasticConvUnit)]
        bare = [u.conv for u in units if u.bn is None or isinstance(u.bn, nn.Identity)]
        assert len(bare) == (net is nets[1])  # MobileNetV3's last, after pooling
        assert not any(id(conv.weight) in turned for conv in bare)
    plain = make_optimizer(nets[0], momentum=0.9, weight_decay=0.0)
    assert len(plain.parts) == 1 and plain.state_dict() == plain.parts[0].state_dict()


def plan_of(**changes: float) -> Plan:
    plan = sandwich_plan(
        epochs=2, learning_rate=0.1, reference_batch=16, subnets_per_step=2, weight_decay=0.0
    )
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


def test_training_with_it_keeps_lengths(tmp_path: Path) -> None:
    plan, before = plan_of(muon_factor=0.5), tiny_net()
    whole = run_straight(plan, tmp_path / "whole")
    optimizer = make_optimizer(before, momentum=0.9, weight_decay=0.0, muon_factor=0.5)
    turned = {id(p) for p in optimizer.parts[1].param_groups[0]["params"]}
    pairs = list(zip(before.parameters(), whole.parameters(), strict=True))
    for start, end in [(a, b) for a, b in pairs if id(a) in turned]:
        assert not torch.equal(start, end)
        torch.testing.assert_close(start.norm(), end.norm(), rtol=1e-4, atol=0)
    descended = run_straight(plan_of(), tmp_path / "descended")
    pairs = list(zip(whole.parameters(), descended.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_its_state_is_saved_and_taken_over() -> None:
    torch.manual_seed(0)
    net = tiny_net()
    ends = []
    for is_split in (False, True):
        own = copy.deepcopy(net)
        optimizer = make_optimizer(own, momentum=0.9, weight_decay=1e-3, muon_factor=0.5)
        for step in range(4):
            generator = torch.Generator().manual_seed(step)
            for p in own.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * group["factor"]
            optimizer.step()
            if is_split and step == 1:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = make_optimizer(own, momentum=0.9, weight_decay=1e-3, muon_factor=0.5)
                optimizer.load_state_dict(state)
        ends.append([p.detach() for p in own.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_its_rate_grows_with_the_root_of_the_batch() -> None:
    rates = []
    for ratio in (1.0, 4.0):
        optimizer = new_optimizer(tiny_net(), plan_of(muon_factor=0.5), ratio)
        set_learning_rate(optimizer, 0.1 * ratio)
        rates.append([part.param_groups[0]["lr"] for part in optimizer.parts])
    assert rates == [[0.1, 0.05], [0.4, 0.1]]
