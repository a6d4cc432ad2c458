"""Cutting tensors: the values and gradients of taking positions one dimension after the other."""

from __future__ import annotations

import itertools

import pytest
import torch

from onceforall.supernets.graphs import cutting
from onceforall.supernets.graphs.cutting import Cut, cut_out, taken

_FIRST: list[tuple[Cut, ...]] = [(), ((0, 3),), ((0, torch.tensor([1, 4])),)]
_SECOND: list[tuple[Cut, ...]] = [(), ((1, 2),), ((1, torch.tensor([0, 3])),)]


@pytest.mark.parametrize("cuts", [a + b for a, b in itertools.product(_FIRST, _SECOND)], ids=str)
@pytest.mark.parametrize("shape", [(5, 4, 3, 3), (5, 4, 1, 1), (5, 4), (5, 4, 2)], ids=str)
@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("large", [0, 2**16])
def test_values_layout_and_gradient(
    cuts: tuple[Cut, ...],
    shape: tuple[int, ...],
    is_last: bool,
    large: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cutting, "_LARGE", large)
    torch.manual_seed(0)
    whole = torch.randn(shape)
    if is_last:
        if len(shape) != 4:
            pytest.skip("only images and kernels have a channels_last layout")
        whole = whole.to(memory_format=torch.channels_last)
    twin = whole.clone().requires_grad_()
    whole.requires_grad_()
    truth = twin
    for dim, index in cuts:
        truth = taken(truth, dim, index)
    part = cut_out(whole, cuts)
    assert torch.equal(part, truth)
    layout = torch.channels_last if is_last else torch.contiguous_format
    assert part.is_contiguous(memory_format=layout)
    weights = torch.randn_like(part)
    (part * weights).sum().backward()
    (truth * weights).sum().backward()
    assert whole.grad is not None
    assert twin.grad is not None
    assert torch.equal(whole.grad, twin.grad)
    assert whole.grad.is_contiguous(memory_format=layout)


def test_a_weight_with_its_dimensions_turned_is_cut_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_LARGE", 0)
    whole = torch.randn(4, 5, requires_grad=True)
    index = torch.tensor([1, 4])
    part = cut_out(whole.t(), ((0, index), (1, 2)))
    part.sum().backward()
    assert torch.equal(part, whole.t()[index][:, :2])
    assert whole.grad is not None
    assert whole.grad.nonzero().tolist() == [[0, 1], [0, 4], [1, 1], [1, 4]]


def test_nothing_is_remembered_where_no_gradient_is_to_come() -> None:
    whole = torch.randn(5, 4, requires_grad=True)
    with torch.no_grad():
        part = cut_out(whole, ((0, torch.tensor([1, 4])), (1, 2)))
    assert torch.equal(part, whole[[1, 4], :2])
    assert not part.requires_grad
