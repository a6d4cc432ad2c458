"""The weight average: it forgets where training started."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onceforall.training import engine
from onceforall.training.optimizer import averaged_weights, parameters_copy
from onceforall.training.plan import Plan, sandwich_plan
from tests.training.test_engine import run_straight
from tests.training.tiny import tiny_net


def initial_share(decay: float, steps: int, monkeypatch: pytest.MonkeyPatch, out: Path) -> float:
    """Return the weight of the initial weights in the average, from a training of real steps."""
    share = 1.0
    update = engine.update_average

    def watched(average: dict, net: torch.nn.Module, decay: float) -> None:
        nonlocal share
        share *= decay
        update(average, net, decay)

    monkeypatch.setattr(engine, "update_average", watched)
    plan: Plan = sandwich_plan(
        epochs=steps // 6, learning_rate=0.1, reference_batch=16, subnets_per_step=2,
        ema_decay=decay,
    )  # fmt: skip
    run_straight(plan, out)
    return share


def test_an_average_forgets_its_initial_weights(monkeypatch, tmp_path: Path) -> None:
    """Without a warm-up 0.999 ** 60 = 94 % of the average would be random weights."""
    assert initial_share(0.999, 60, monkeypatch, tmp_path) < 1e-6


def test_an_average_of_weights_that_stay_is_those_weights(tmp_path: Path) -> None:
    plan = sandwich_plan(
        epochs=1, learning_rate=0.0, reference_batch=16, subnets_per_step=2, ema_decay=0.9
    )
    after, before = run_straight(plan, tmp_path), tiny_net()
    for a, b in zip(after.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_averaged_weights_are_there_for_a_while() -> None:
    net = tiny_net()
    before = parameters_copy(net)
    average = {name: tensor + 1 for name, tensor in before.items()}
    with averaged_weights(net, average):
        assert all(torch.equal(p, average[n]) for n, p in net.named_parameters())
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    with averaged_weights(net, {}):
        assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
