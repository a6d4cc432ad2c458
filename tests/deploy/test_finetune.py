"""Fine-tuning improves a subnet, resumes exactly, and needs a teacher to distil."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onceforall.deploy.finetune import finetune, finetune_plan
from onceforall.errors import ConfigError, Interrupted
from onceforall.measure.accuracy import evaluate
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.supernets.static import StaticNet
from onceforall.training.settings import Callbacks, TrainOptions
from tests.training.tiny import CLASSES, SPEC, tiny_batches, tiny_eval, tiny_net


def tuned(folder: Path, *, distill: bool = False, **callbacks: object) -> StaticNet:
    net = tiny_net()
    model = net.extract(SPEC.space.smallest)
    plan = finetune_plan(epochs=4, learning_rate=0.1, reference_batch=16, distill=distill)
    finetune(
        model,
        plan,
        tiny_batches(),
        resolution=8,
        num_classes=CLASSES,
        folder=folder,
        options=TrainOptions(seed=0),
        callbacks=Callbacks(**callbacks),
        teacher=net if distill else None,
    )
    return model


def top1(model: StaticNet) -> float:
    images = tiny_eval()
    recalibrate_bn(model, (x for x, _ in images.batches(8)))
    return evaluate(model.eval(), images.batches(8)).top1


def test_it_learns(tmp_path: Path) -> None:
    before = top1(tiny_net().extract(SPEC.space.smallest))
    assert top1(tuned(tmp_path)) > max(0.9, before)


@pytest.mark.parametrize("distill", [False, True])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, distill: bool) -> None:
    straight = tuned(tmp_path / "a", distill=distill).state_dict()
    asked = iter([False] * 7 + [True])
    with pytest.raises(Interrupted):
        tuned(tmp_path / "b", distill=distill, should_stop=lambda: next(asked))
    resumed = tuned(tmp_path / "b", distill=distill).state_dict()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_distillation_changes_the_result_and_needs_a_teacher(tmp_path: Path) -> None:
    plain, distilled = tuned(tmp_path / "a"), tuned(tmp_path / "b", distill=True)
    assert not torch.equal(plain.head[-1].linear.weight, distilled.head[-1].linear.weight)
    plan = finetune_plan(epochs=1, learning_rate=0.1, reference_batch=16, distill=True)
    with pytest.raises(ConfigError, match="there is none"):
        finetune(
            tiny_net().extract(SPEC.space.smallest),
            plan,
            tiny_batches(),
            resolution=8,
            num_classes=CLASSES,
            folder=tmp_path / "c",
            options=TrainOptions(seed=0),
        )
