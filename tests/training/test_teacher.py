"""The frozen teacher: without dropout, in its own plan and from outside."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from onceforall.supernets.supernet import Supernet
from onceforall.training.engine import train
from onceforall.training.plan import Phase, Plan
from onceforall.training.ranks import Ranks
from onceforall.training.settings import TrainOptions
from onceforall.training.step import StepContext, accumulate_gradients
from tests.training.tiny import SPEC, tiny_batches

DROPPING = dataclasses.replace(SPEC, dropout=0.5)
IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def plan(*teachers: str) -> Plan:
    phases = tuple(
        Phase(name=f"p{i}", epochs=1, draw="largest", learning_rate=0.1, teacher=teacher)
        for i, teacher in enumerate(teachers)
    )
    return Plan(name="taught", phases=phases, reference_batch=16)


def targets_of(teacher: Supernet, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Return the soft targets of two steps on the same batch."""
    from onceforall.training import step

    seen: list[torch.Tensor] = []
    real = step.soft_target_loss

    def spy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(targets)
        return real(logits, targets)

    monkeypatch.setattr(step, "soft_target_loss", spy)
    taught = plan("frozen")
    context = StepContext(plan=taught, phase=taught.phases[0], ranks=Ranks(), teacher=teacher)
    arch = SPEC.space.restrict(resolution=(8,)).largest
    for _ in range(2):
        net = Supernet(DROPPING).train()
        accumulate_gradients(net, [(IMAGES, torch.arange(8) % 3)], [arch], context)
    return seen


def test_a_teacher_in_training_mode_gives_the_same_targets_twice(monkeypatch) -> None:
    teacher = Supernet(DROPPING).train()
    first, second = targets_of(teacher, monkeypatch)
    assert torch.equal(first, second)
    assert teacher.training and all(m.training for m in teacher.modules())  # as it was


def test_the_teacher_of_a_plan_does_not_drop(tmp_path: Path, monkeypatch) -> None:
    shares: list[float] = []
    real = torch.nn.functional.dropout

    def spy(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False):
        if not torch.is_grad_enabled():
            shares.append(p if training else 0.0)
        return real(x, p, training, inplace)

    monkeypatch.setattr(torch.nn.functional, "dropout", spy)
    # Only the teacher, and attentive sampling, run without gradients.
    net = Supernet(DROPPING)
    options = TrainOptions(seed=0)
    train(net, plan("none", "frozen"), tiny_batches(), folder=tmp_path, options=options)
    assert shares and set(shares) == {0.0}
