"""Elastic operators: equal to their plain twins, bit for bit, and honest about gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from onceforall.ops.conv import ElasticConv2d, ElasticDepthwiseConv2d
from onceforall.ops.dense import ElasticLinear, ElasticSqueezeExcite, SqueezeExcite
from onceforall.ops.functional import (
    ACTIVATIONS,
    activate,
    banded_order,
    center_crop,
    channel_importance,
)
from onceforall.ops.norm import ElasticBatchNorm2d


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_noise(module: nn.Module) -> nn.Module:
    """Give every tensor of a module seeded values; variances stay positive."""
    with torch.no_grad():
        for index, (name, tensor) in enumerate(module.state_dict().items()):
            if tensor.is_floating_point():
                values = noise(*tensor.shape, seed=index)
                tensor.copy_(values.abs() + 0.1 if name.endswith("var") else values)
    return module


# -- convolutions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("c_in", "c_out"), [(6, 10), (4, 10), (6, 7), (3, 5)])
def test_a_convolution_equals_its_plain_twin(
    c_in: int, c_out: int, stride: int, kernel_size: int, channels_last: bool
) -> None:
    elastic = ElasticConv2d(6, 10, kernel_size, stride=stride, bias=True)
    with_noise(elastic)
    plain = nn.Conv2d(c_in, c_out, kernel_size, stride, kernel_size // 2)
    elastic.copy_to(plain)
    x = noise(2, c_in, 9, 9)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
        elastic.to(memory_format=torch.channels_last)
        plain.to(memory_format=torch.channels_last)
    assert torch.equal(elastic(x, c_out), plain(x))


@pytest.mark.parametrize("sizes", [(3,), (3, 5), (7, 3, 5), (3, 7), (1, 3, 5, 7, 9)])
@pytest.mark.parametrize("channels", [4, 6])
def test_a_depthwise_convolution_equals_its_plain_twin(
    sizes: tuple[int, ...], channels: int
) -> None:
    elastic = ElasticDepthwiseConv2d(6, sizes, stride=2)
    with_noise(elastic)
    x = noise(2, channels, 11, 11)
    for kernel_size in sizes:
        plain = nn.Conv2d(
            channels, channels, kernel_size, 2, kernel_size // 2, groups=channels, bias=False
        )
        elastic.copy_to(plain)
        assert torch.equal(elastic(x, kernel_size), plain(x))
        given_weight = elastic.active_weight(channels, kernel_size)
        assert torch.equal(elastic(x, kernel_size, given_weight), plain(x))


def test_smaller_kernels_are_crops_times_transforms_step_by_step() -> None:
    """The definition: crop, flatten row-major, multiply by the transposed matrix, repeat."""
    elastic = with_noise(ElasticDepthwiseConv2d(5, (3, 5, 7, 9))).double()
    weight = elastic.weight[:4]
    for big, small in itertools.pairwise((9, 7, 5, 3)):
        flat = center_crop(weight, small).flatten(1)
        weight = (flat @ elastic.transforms[f"{big}to{small}"].T).view(4, 1, small, small)
        torch.testing.assert_close(elastic.active_weight(4, small), weight, rtol=1e-12, atol=1e-12)


def test_fresh_transforms_are_centre_crops() -> None:
    elastic = ElasticDepthwiseConv2d(3, (3, 5, 7))
    for kernel_size in (3, 5):
        crop = center_crop(elastic.weight, kernel_size)
        assert torch.equal(elastic.active_weight(3, kernel_size), crop)


def test_crops_are_no_part_of_the_state() -> None:
    names = set(ElasticDepthwiseConv2d(3, (3, 5, 7)).state_dict())
    assert names == {"weight", "transforms.7to5", "transforms.5to3"}


def test_gradients_reach_what_ran_and_nothing_else() -> None:
    elastic = with_noise(ElasticDepthwiseConv2d(6, (3, 5, 7)))
    elastic(noise(2, 4, 8, 8), 5).square().sum().backward()
    assert elastic.weight.grad[:4].abs().sum() > 0
    assert (elastic.weight.grad[4:] == 0).all()
    assert elastic.transforms["7to5"].grad.abs().sum() > 0
    assert elastic.transforms["5to3"].grad is None
    # Only the centre of a 7x7 filter makes the 5x5 one.
    assert (elastic.weight.grad[:, :, 0] == 0).all()


def test_gradients_are_right() -> None:
    elastic = with_noise(ElasticDepthwiseConv2d(2, (3, 5, 7))).double()
    x = noise(1, 2, 5, 5).double()

    def run(weight: Tensor, first: Tensor, second: Tensor) -> Tensor:
        tensors = {"weight": weight, "transforms.7to5": first, "transforms.5to3": second}
        return torch.func.functional_call(elastic, tensors, (x, 3))

    inputs = [elastic.weight, elastic.transforms["7to5"], elastic.transforms["5to3"]]
    assert torch.autograd.gradcheck(
        run, [t.detach().requires_grad_() for t in inputs], fast_mode=True
    )


@pytest.mark.parametrize("sizes", [(), (3, 3), (2, 4)])
def test_impossible_kernels_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="kernel_sizes must be distinct odd numbers, got"):
        ElasticDepthwiseConv2d(4, sizes)


def test_a_kernel_that_is_not_on_offer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel_size 9 is not one of \(7, 5, 3\)"):
        ElasticDepthwiseConv2d(4, (3, 5, 7)).active_weight(4, 9)


# -- norm, linear, squeeze-excite -----------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("training", [False, True])
def test_a_batch_norm_equals_its_plain_twin(channels: int, training: bool) -> None:
    elastic = with_noise(ElasticBatchNorm2d(8, eps=1e-3, momentum=0.2)).train(training)
    before = {name: tensor.clone() for name, tensor in elastic.state_dict().items()}
    plain = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.2).train(training)
    elastic.copy_to(plain)
    x = noise(4, channels, 5, 5)
    assert torch.equal(elastic(x), plain(x))
    assert elastic.num_batches_tracked == 0  # the network counts, for all its norms at once
    for name in ("running_mean", "running_var"):
        now = getattr(elastic, name)
        assert torch.equal(now[:channels], getattr(plain, name))
        assert torch.equal(now[channels:], before[name][channels:])
        assert torch.equal(now, before[name]) != training


@pytest.mark.parametrize("features", [5, 12])
def test_a_linear_layer_equals_its_plain_twin(features: int) -> None:
    elastic = with_noise(ElasticLinear(12, 7))
    plain = nn.Linear(features, 7)
    elastic.copy_to(plain)
    x = noise(33, features)
    assert torch.equal(elastic(x), plain(x))


@pytest.mark.parametrize(("channels", "hidden"), [(16, 8), (10, 8), (16, 4), (9, 3)])
def test_squeeze_excite_equals_its_plain_twin(channels: int, hidden: int) -> None:
    elastic = with_noise(ElasticSqueezeExcite(16, 8))
    plain = SqueezeExcite(channels, hidden)
    elastic.copy_to(plain)
    x = noise(3, channels, 7, 7)
    assert torch.equal(elastic(x, hidden), plain(x))


def test_squeeze_excite_scales_by_a_gate_of_the_means() -> None:
    plain = with_noise(SqueezeExcite(6, 4))
    x = noise(2, 6, 5, 5)
    mean = x.mean((2, 3))
    hidden = F.relu(F.linear(mean, plain.reduce.weight[..., 0, 0], plain.reduce.bias))
    gate = F.linear(hidden, plain.expand.weight[..., 0, 0], plain.expand.bias)
    gate = (gate + 3).clamp(0, 6) / 6
    torch.testing.assert_close(plain(x), x * gate[..., None, None])


# -- functions ------------------------------------------------------------------------------------


def test_activations_are_what_they_say() -> None:
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    relu6 = (x + 3).clamp(0, 6)
    expected = {
        "relu": x.clamp(min=0),
        "relu6": x.clamp(0, 6),
        "h_swish": x * relu6 / 6,
        "h_sigmoid": relu6 / 6,
        "sigmoid": 1 / (1 + (-x).exp()),
        "tanh": x.tanh(),
        "silu": x / (1 + (-x).exp()),
        "none": x,
    }
    assert set(expected) == set(ACTIVATIONS)
    for name, y in expected.items():
        torch.testing.assert_close(activate(x, name), y)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="activation gelu is not one of"):
        activate(torch.zeros(1), "gelu")


def test_the_centre_is_the_centre() -> None:
    grid = torch.arange(49.0).view(1, 1, 7, 7)
    assert center_crop(grid, 3).flatten().tolist() == [16, 17, 18, 23, 24, 25, 30, 31, 32]


def test_importance_is_the_sum_of_absolute_weights_per_input() -> None:
    weight = noise(5, 4, 3, 3)
    expected = [weight[:, c].abs().sum() for c in range(4)]
    torch.testing.assert_close(channel_importance(weight), torch.stack(expected))


@given(
    st.lists(st.integers(0, 5), min_size=12, max_size=12),
    st.lists(st.integers(1, 11), min_size=0, max_size=3, unique=True),
    st.integers(0, 3),
)
def test_bands_are_sorted_inside_and_stay_where_they_are(
    scores: list[int], smaller: list[int], num_opened: int
) -> None:
    widths = [12, *sorted(smaller, reverse=True)]
    importance = torch.tensor(scores, dtype=torch.float32)
    order = banded_order(importance, widths, num_opened).tolist()
    assert sorted(order) == list(range(12))
    edges = [0, *reversed(widths[1 : num_opened + 1]), 12]
    for start, stop in itertools.pairwise(edges):
        band = order[start:stop]
        assert set(band) == set(range(start, stop))
        # Most important first; ties keep their order.
        assert band == sorted(band, key=lambda c: (-scores[c], c))


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_kernel_transforms_are_multiplied_in_full_precision_under_autocast(
    kernel_size: int,
) -> None:
    """Near 1 a step of bfloat16 is 0.4 to 0.8 %: small departures from identity would vanish."""
    generator = torch.Generator().manual_seed(0)
    conv = ElasticDepthwiseConv2d(16, (3, 5, 7))
    with torch.no_grad():
        for matrix in conv.transforms.values():
            matrix += 0.001 * torch.randn(matrix.shape, generator=generator)
    exact = conv.active_weight(16, kernel_size)
    images = torch.randn(2, 16, 9, 9, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        weight = conv.active_weight(16, kernel_size)
        y = conv(images, kernel_size)
        expected = F.conv2d(images, exact, padding=kernel_size // 2, groups=16)
    assert weight.dtype == torch.float32 and torch.equal(weight, exact)
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected)
