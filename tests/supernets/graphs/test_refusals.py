"""Networks that cannot be elastic are refused, by the name of the operation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onceforall.errors import BlueprintError
from onceforall.supernets.graphs.elasticize import ElasticChoices, elasticize
from tests.supernets.graphs.tiny import SIDE, Body, conv

Run = Callable[[nn.Module, Tensor], object]


class Function(nn.Module):
    """A stem and a head, with a function between."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.head = nn.Linear(16, 5)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> object:
        return self.run(self, self.stem(x))

    def logits(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


def two_outputs(net: Function, x: Tensor) -> object:
    return net.logits(x), x


def depends_on_values(net: Function, x: Tensor) -> object:
    return net.logits(x if x.sum() > 0 else -x)


def writes_a_buffer(net: Function, x: Tensor) -> object:
    net.seen.add_(1)  # type: ignore[operator, union-attr]
    return net.logits(x + net.seen)


def alias_read_later(net: Function, x: Tensor) -> object:
    part = x[:, :8]
    part.mul_(2)
    return net.logits(x)


def overwritten_view(net: Function, x: Tensor) -> object:
    flat = x.flatten(2)
    x.relu_()
    return net.logits(flat.unsqueeze(-1) + x.flatten(2).unsqueeze(-1))


def overwritten_part(net: Function, x: Tensor) -> object:
    left, _ = x.chunk(2, 1)
    x.relu_()
    return net.logits(torch.cat([left, x[:, 8:]], 1))


def into_a_constant(net: Function, x: Tensor) -> object:
    out = torch.zeros(1, 16, 8, 8)
    out = out.expand(1, 16, 8, 8).clone()
    out[:, :1] = x[:1, :1]
    return net.logits(x + out)


def features(net: Function, x: Tensor) -> object:
    return x


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (two_outputs, "has one output, this one has 2"),
        (depends_on_values, "cannot be traced"),
        (writes_a_buffer, "seen"),
        (alias_read_later, "node mul_ overwrites slice_1"),
        (overwritten_view, "node relu_ overwrites conv2d"),
        (overwritten_part, "cannot be traced"),
        (into_a_constant, "constant"),
        (features, "logits"),
    ],
)
def test_what_cannot_be_right_is_refused(run: Run, message: str) -> None:
    with pytest.raises(BlueprintError, match=message):
        elasticize(Function(run), torch.zeros(1, 3, SIDE, SIDE))


def test_several_inputs_are_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Body(conv(16, 16))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.net(x + y)

    with pytest.raises(BlueprintError, match="cannot be traced"):
        elasticize(Two(), torch.zeros(1, 3, SIDE, SIDE))


def test_nothing_elastic_is_refused() -> None:
    with pytest.raises(BlueprintError, match="nothing that can be elastic"):
        elasticize(
            nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 5)),
            torch.zeros(1, 3, SIDE, SIDE),
        )


def test_in_place_after_the_last_reading_is_right() -> None:
    def run(net: Function, x: Tensor) -> Tensor:
        y = x * 2
        x.relu_()
        x.add_(y)
        z = x.view(x.shape)
        return net.logits(z.relu_())

    torch.manual_seed(0)
    model = Function(run)
    net = elasticize(model, torch.zeros(1, 3, SIDE, SIDE))
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(net(x, net.space.largest), model.eval()(x))  # type: ignore[arg-type]


def test_an_operator_without_a_rule_is_rigid_or_refused() -> None:
    def run(net: Function, x: Tensor) -> Tensor:
        return net.logits(F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2))

    model = Function(run)
    body = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 3, 1), model)
    net = elasticize(body, torch.zeros(1, 3, SIDE, SIDE))
    assert ("pixel_shuffle", "operator pixel_shuffle.default has no rule") in net.spec.rigid
    with pytest.raises(BlueprintError, match="node pixel_shuffle: operator"):
        elasticize(body, torch.zeros(1, 3, SIDE, SIDE), choices=ElasticChoices(strict=True))


@pytest.mark.parametrize(
    "values", [{"ratios": (0.5,)}, {"ratios": ()}, {"smallest_kernel": 4}, {"divisor": 0}]
)
def test_choices_are_checked(values: dict[str, object]) -> None:
    with pytest.raises(BlueprintError):
        ElasticChoices(**values)  # type: ignore[arg-type]


def test_weights_made_of_the_images_are_refused() -> None:
    def for_each_image(net: Function, x: Tensor) -> Tensor:
        kernels = x.mean((2, 3)).reshape(-1, 1, 1, 1).expand(-1, 1, 3, 3)
        merged = x.reshape(1, -1, *x.shape[2:])
        y = F.conv2d(merged, kernels, padding=1, groups=merged.shape[1])
        return net.logits(y.reshape(x.shape))

    with pytest.raises(BlueprintError, match=r"depend on the images|cannot be traced"):
        elasticize(Function(for_each_image), torch.zeros(1, 3, SIDE, SIDE))

    def of_all_images(net: Function, x: Tensor) -> Tensor:
        kernel = x.mean((0, 2, 3)).reshape(16, 1, 1, 1).expand(16, 16, 1, 1)
        return net.logits(F.conv2d(x, kernel))

    with pytest.raises(BlueprintError, match=r"weights of conv2d\.default depend on the images"):
        elasticize(Function(of_all_images), torch.zeros(1, 3, SIDE, SIDE))


class Ruled(nn.Module):
    """A ramp over the columns, scaled by a parameter: another constant at another side."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.net = Body(nn.Sequential(conv(16, 16), conv(16, 16)))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + self.scale * torch.linspace(0, 1, x.shape[-1]))


def test_what_is_computed_for_a_side_keeps_to_it() -> None:
    two = ElasticChoices(resolutions=(SIDE, 2 * SIDE))
    with pytest.raises(BlueprintError, match="choose one resolution"):
        elasticize(Ruled(), torch.zeros(1, 3, SIDE, SIDE), choices=two)
    assert elasticize(Ruled(), torch.zeros(1, 3, SIDE, SIDE)).space.resolutions == (SIDE,)
