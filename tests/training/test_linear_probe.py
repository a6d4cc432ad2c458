"""Fitting a classifier to the features of a trained network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onceforall.artifacts import Request
from onceforall.errors import BlueprintError
from onceforall.job.context import Run
from onceforall.job.start import plan_run
from onceforall.job.weights import fit_fresh_classifier, load_initial_weights, new_supernet
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.supernets.graphs.elasticize import elasticize
from onceforall.supernets.nets import ElasticNet, body_of, linear_of
from onceforall.supernets.weights import save_supernet
from onceforall.training.linear_probe import features_of, fit_linear
from tests.job.own_nets import make_small
from tests.job.tiny_run import SETTINGS, write_images
from tests.training.tiny import tiny_net

PENALTY = 0.03


def two_clouds(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(200) % 2
    features = torch.randn(200, 6, generator=generator) * torch.tensor([1, 9, 0.1, 2, 1, 1])
    features[:, 2] += 5 + 0.15 * labels
    return features, labels


def test_no_direction_makes_the_penalised_loss_smaller() -> None:
    """The problem is convex: a gradient of 0 is the minimum."""
    features, labels = two_clouds()
    weight, bias = fit_linear(features, labels, num_classes=3, label_smoothing=0.1)
    mean, std = features.mean(0), features.std(0, correction=0)
    scaled = (weight * std).requires_grad_()
    shift = (bias + weight @ mean).requires_grad_()
    logits = F.linear((features - mean) / std, scaled, shift)
    assert torch.allclose(logits, F.linear(features, weight, bias), atol=1e-4)
    loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
    (loss + PENALTY / 2 * scaled.square().sum()).backward()
    assert scaled.grad is not None and shift.grad is not None
    assert max(scaled.grad.abs().max(), shift.grad.abs().max()) < 1e-3


def test_what_is_constant_has_no_part() -> None:
    features, labels = two_clouds()
    features[:, 1] = 7.0
    weight, bias = fit_linear(features, labels, num_classes=2)
    assert weight.isfinite().all() and bias.isfinite().all() and not weight[:, 1].any()


def elastic_net(kind: str) -> ElasticNet:
    if kind == "stage table":
        return tiny_net(seed=1).eval()
    torch.manual_seed(1)
    return elasticize(make_small().eval(), torch.zeros(1, 3, 12, 12))


@pytest.mark.parametrize("kind", ["stage table", "traced"])
def test_body_and_classifier_make_the_network(kind: str) -> None:
    net = elastic_net(kind)
    plain = net.extract(net.space.largest)
    images = torch.randn(2, 3, net.space.largest.resolution, net.space.largest.resolution)
    with torch.no_grad():
        expected = plain(images)
        assert torch.equal(F.linear(body_of(plain)(images), *linear_of(plain)), expected)
        assert torch.equal(F.linear(body_of(plain)(images), *linear_of(net)), expected)


def test_another_kind_of_classifier_is_refused() -> None:
    class ConvHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.stem(x))).mean((2, 3))

    net = elasticize(ConvHead().eval(), torch.zeros(1, 3, 12, 12))
    with pytest.raises(BlueprintError, match="no fully connected layer"):
        body_of(net.extract(net.space.largest))


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Run]:
    """A run on images of which the mean colour tells the class, from weights of other classes."""
    images = write_images(tmp_path / "images.npz")
    arrays = dict(np.load(images))
    for split in ("train", "test"):
        pictures = arrays[f"x_{split}"]
        labels = np.arange(len(pictures)) % 5
        arrays[f"y_{split}"] = labels
        for picture, label in zip(pictures, labels, strict=True):
            picture[...] = 50 * label + picture // 8
    np.savez(images, **arrays)
    checkpoint = tmp_path / "own.safetensors"
    save_supernet(tiny_net(seed=3), checkpoint)

    def plan(*flags: str) -> Run:
        settings = (*SETTINGS, "train.epochs=1", f"train.init={checkpoint}", *flags)
        request = Request(source=str(images), flags=settings)
        return plan_run(
            request, tmp_path / "run", tell=lambda event: None, device=torch.device("cpu")
        )

    return plan


def fitted(run: Run) -> tuple[ElasticNet, dict[str, Tensor]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        net = new_supernet(run)
    load_initial_weights(run, net)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fit_fresh_classifier(run, run.session(), net)
    return net, before


def test_only_a_fresh_classifier_is_fitted_and_the_same_again(planned: Callable[..., Run]) -> None:
    run = planned("train.reinit_head=true")
    net, before = fitted(run)
    changed = {k for k, tensor in net.state_dict().items() if not torch.equal(tensor, before[k])}
    own = {id(tensor) for tensor in linear_of(net)}
    assert changed == {name for name, tensor in net.named_parameters() if id(tensor) in own}
    again, _ = fitted(run)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name


def test_the_fitted_classifier_tells_the_classes_of_training_images_apart(
    planned: Callable[..., Run],
) -> None:
    run = planned("train.reinit_head=true")
    net, before = fitted(run)
    session, side = run.session(), net.space.largest.resolution
    body = body_of(net.extract(net.space.largest))
    recalibrate_bn(body, session.calibration_batches(side))
    batches = session.train.iterate(0, resolution_of=lambda _: side)
    features, labels = features_of(body, (batch for _, batch in batches))
    own = linear_of(net)
    names = [n for n, tensor in net.named_parameters() if any(tensor is t for t in own)]
    drawn = [before[name] for name in names]
    found = (F.linear(features, *own).argmax(1) == labels).float().mean()
    guessed = (F.linear(features, *drawn).argmax(1) == labels).float().mean()
    assert found > guessed + 0.3


@pytest.mark.parametrize("flags", [("train.fit_head=false",), ("train.start_at=sandwich",)])
def test_what_is_asked_not_to_be_fitted_stays(
    planned: Callable[..., Run], flags: tuple[str, ...]
) -> None:
    net, before = fitted(planned("train.reinit_head=true", *flags))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
