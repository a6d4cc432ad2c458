"""Depthwise convolution: PyTorch's values to the bit, and its gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from onceforall.ops.depthwise import DepthwiseConv2d, depthwise_conv2d
from onceforall.ops.functional import spatial_mean

_SIDES = ((1, 1), (2, 3), (4, 4), (7, 7), (8, 12), (13, 5))


def _inputs(kernel: int, sides: tuple[int, int]) -> list[torch.Tensor]:
    torch.manual_seed(kernel)
    x = torch.randn(4, 6, *sides).to(memory_format=torch.channels_last)
    tensors = [x, torch.randn(6, 1, kernel, kernel), torch.randn(6)]
    return [tensor.requires_grad_() for tensor in tensors]


def _error(found: torch.Tensor | None, exact: torch.Tensor | None) -> float:
    assert found is not None
    assert exact is not None
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str
)
@pytest.mark.parametrize("kernel", [3, 5, 7, 9, 11])
@pytest.mark.parametrize("stride", [1, 2])
def test_values_and_gradients(
    dtype: torch.dtype, tolerance: float, kernel: int, stride: int
) -> None:
    is_low = dtype == torch.bfloat16
    for sides in _SIDES:
        x, weight, bias = _inputs(kernel, sides)
        with torch.autocast("cpu", dtype, enabled=is_low):
            y = depthwise_conv2d(x, weight, bias, stride=stride)
            plain = F.conv2d(x, weight, bias, stride, kernel // 2, groups=6)
        assert torch.equal(y, plain)
        exact = [each.detach().to(dtype).double().requires_grad_() for each in (x, weight, bias)]
        truth = F.conv2d(*exact, stride, kernel // 2, groups=6)
        grad = torch.randn_like(y)
        y.backward(grad)
        truth.backward(grad.double())
        for found, true in zip((x, weight, bias), exact, strict=True):
            assert found.grad is not None
            assert found.grad.dtype == torch.float32
            assert _error(found.grad, true.grad) < tolerance, sides


def test_only_what_is_needed_is_computed() -> None:
    for wanted in itertools.product((False, True), repeat=3):
        tensors = _inputs(5, (8, 8))
        for tensor, needs in zip(tensors, wanted, strict=True):
            tensor.requires_grad_(needs)
        y = depthwise_conv2d(*tensors)
        assert y.requires_grad == any(wanted)
        if any(wanted):
            y.sum().backward()
        assert [tensor.grad is not None for tensor in tensors] == list(wanted)


def test_a_plain_module_of_its_own() -> None:
    torch.manual_seed(0)
    module = DepthwiseConv2d(6, 5, stride=2, bias=True)
    twin = torch.nn.Conv2d(6, 6, 5, 2, 2, groups=6)
    twin.load_state_dict(module.state_dict())
    x = torch.randn(2, 6, 9, 9)
    assert torch.equal(module(x), twin(x))
    program = torch.export.export(module.eval(), (x,))
    assert torch.equal(program.module()(x), twin(x))


def test_the_gradient_of_a_mean_lies_as_its_input() -> None:
    x = torch.randn(2, 6, 5, 3).to(memory_format=torch.channels_last).requires_grad_()
    scale = torch.randn(2, 6, 1, 1)
    (spatial_mean(x) * scale).sum().backward()
    assert torch.equal(spatial_mean(x), x.mean((3,), keepdim=True).mean((2,), keepdim=True))
    assert x.grad is not None
    assert torch.allclose(x.grad, (scale / 15).expand_as(x))
    assert x.grad.is_contiguous(memory_format=torch.channels_last)
