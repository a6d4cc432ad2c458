"""Training that starts from the weights of a supernet of other classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from onceforall.artifacts import Request
from onceforall.errors import CheckpointError
from onceforall.job.context import Run
from onceforall.job.start import plan_run
from onceforall.job.steps.train import train_step
from onceforall.job.weights import load_initial_weights, new_supernet
from onceforall.supernets.weights import load_saved_supernet, save_supernet
from onceforall.training.optimizer import make_optimizer, set_learning_rate
from tests.job.tiny_run import SETTINGS, write_images
from tests.training.tiny import tiny_net

OTHER_CLASSES = 5
HEAD = {"layers.7.linear.weight", "layers.7.linear.bias"}


@pytest.fixture(scope="module")
def own_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet of three classes whose batch norm has seen something."""
    net = tiny_net(seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(generator=generator)
    path = tmp_path_factory.mktemp("own") / "supernet.safetensors"
    save_supernet(net, path)
    return path


@pytest.fixture
def planned(tmp_path: Path, own_checkpoint: Path) -> Callable[..., Run]:
    """A run of one short epoch on images of five classes, from the checkpoint of three."""
    images = write_images(tmp_path / "images.npz")
    arrays = dict(np.load(images))
    for split in ("train", "test"):
        arrays[f"y_{split}"] = np.arange(len(arrays[f"y_{split}"])) % OTHER_CLASSES
    np.savez(images, **arrays)

    def plan(*flags: str, name: str = "run") -> Run:
        settings = (*SETTINGS, "train.epochs=1", f"train.init={own_checkpoint}", *flags)
        request = Request(source=str(images), flags=settings)
        return plan_run(
            request, tmp_path / name, tell=lambda event: None, device=torch.device("cpu")
        )

    return plan


def started(run: Run) -> dict[str, Tensor]:
    """Return the tensors that training starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        net = new_supernet(run)
    load_initial_weights(run, net)
    return net.state_dict()


def fresh_head(run: Run) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        return {k: v for k, v in new_supernet(run).state_dict().items() if k in HEAD}


def test_the_head_is_fresh_and_all_else_is_the_checkpoint(
    planned: Callable[..., Run], own_checkpoint: Path
) -> None:
    run = planned("train.reinit_head=true")
    state, saved = started(run), safetensors.torch.load_file(own_checkpoint)
    assert state.keys() == saved.keys() and state.keys() >= HEAD
    for name, tensor in fresh_head(run).items():
        assert torch.equal(state[name], tensor) and len(tensor) == OTHER_CLASSES
    for name in state.keys() - HEAD:
        assert torch.equal(state[name], saved[name]), name


def test_other_classes_without_a_fresh_head_are_refused(planned: Callable[..., Run]) -> None:
    with pytest.raises(CheckpointError, match="it has 3 classes where the network has 5"):
        started(planned())


def test_a_frozen_backbone_keeps_its_weights(planned: Callable[..., Run]) -> None:
    """Only the head learns. Batch-norm statistics go on following the batches.

    They do in any training; every use of a supernet recalibrates them.
    """
    run = planned("train.reinit_head=true", "train.freeze_backbone=true")
    before = started(run)
    train_step(run)
    net, _ = load_saved_supernet(run.folder.supernet)
    after, parameters = net.state_dict(), dict(net.named_parameters())
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed & parameters.keys() == HEAD
    statistics = {name for name in changed if "running_" in name or "num_batches" in name}
    assert changed - parameters.keys() == statistics != set()


def test_progressive_shrinking_only_sorts_the_channels_of_a_frozen_backbone(
    planned: Callable[..., Run],
) -> None:
    flags = ("train.freeze_backbone=true", "train.plan=progressive")
    run = planned("train.reinit_head=true", *flags)
    before = started(run)
    train_step(run)
    net, _ = load_saved_supernet(run.folder.supernet)
    parameters = dict(net.named_parameters())
    assert any(not torch.equal(p, before[n]) for n, p in parameters.items() if n not in HEAD)
    for name, parameter in parameters.items():
        is_same = torch.equal(
            parameter.flatten().sort().values, before[name].flatten().sort().values
        )
        assert is_same == (name not in HEAD), name


def test_an_unfrozen_backbone_learns(planned: Callable[..., Run]) -> None:
    run = planned("train.reinit_head=true")
    before = started(run)
    train_step(run)
    net, _ = load_saved_supernet(run.folder.supernet)
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert len(moved) > 0.9 * len(dict(net.named_parameters()))


@pytest.mark.parametrize("factor", [1.0, 10.0, 0.0])
def test_the_factor_of_the_head_multiplies_its_step(factor: float) -> None:
    """Plain gradient descent of one step: minus rate x factor x (gradient + decay x weight)."""
    body, head = nn.Linear(2, 2), nn.Linear(2, 3)
    for parameter in (*body.parameters(), *head.parameters()):
        nn.init.constant_(parameter, 2.0)
        parameter.grad = torch.full_like(parameter, 3.0)
    optimizer = make_optimizer(
        nn.Sequential(body, head), momentum=0.0, weight_decay=0.5, head=head, head_factor=factor
    )
    set_learning_rate(optimizer, 0.125)
    optimizer.step()
    for module, times in ((body, 1.0), (head, factor)):
        assert torch.equal(module.weight, torch.full_like(module.weight, 2 - 0.125 * times * 4))
        assert torch.equal(module.bias, torch.full_like(module.bias, 2 - 0.125 * times * 3))


def test_the_factor_reaches_the_head_of_a_run(planned: Callable[..., Run]) -> None:
    """Of two runs that differ in nothing else, the head of one learns and that of one does not."""
    moves = []
    for factor in ("1.0", "1e-30"):
        flags = ("train.reinit_head=true", "train.fit_head=false", f"train.head_factor={factor}")
        run = planned(*flags, "train.freeze_backbone=true", name=factor)
        before = started(run)
        train_step(run)
        after = load_saved_supernet(run.folder.supernet)[0].state_dict()
        moves.append([float((after[name] - before[name]).abs().max()) for name in sorted(HEAD)])
    assert min(moves[0]) > 1e-4 and max(moves[1]) < 1e-20
