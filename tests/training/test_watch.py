"""The loss watch: the label loss of the leading subnet, judged from more than one step."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from onceforall.training.plan import Phase, Plan
from onceforall.training.ranks import Ranks
from onceforall.training.step import StepContext, accumulate_gradients
from onceforall.training.watch import LossWatch
from tests.training.tiny import SPEC, tiny_net

CHANCE = math.log(2)


def verdicts(losses: list[float]) -> list[str]:
    watch = LossWatch(num_classes=2)
    return [text for loss in losses if (text := watch.verdict(loss)) is not None]


def test_a_collapse_is_seen_within_a_hundred_steps() -> None:
    assert not verdicts([0.4] * 50 + [CHANCE] * 20)
    assert "back at chance" in verdicts([0.4] * 50 + [CHANCE] * 100)[0]


def test_one_lucky_step_does_not_make_the_next_ones_a_collapse() -> None:
    assert not verdicts([0.1] + [CHANCE] * 200)
    assert not verdicts([0.1, 0.1, 0.1] + [CHANCE] * 200)


def test_one_bad_step_is_no_collapse() -> None:
    assert not verdicts([0.4] * 50 + [6.0] + [0.4] * 50)


def test_a_blow_up_is_seen_within_thirty_steps() -> None:
    assert verdicts([0.4] * 50 + [1e4] * 30)


def test_a_loss_that_is_no_number_is_told_at_once() -> None:
    assert verdicts([float("nan")]) == ["the loss is nan"]


def test_a_watch_that_was_saved_goes_on_as_before() -> None:
    losses = [0.4] * 15 + [CHANCE] * 100
    straight, first = LossWatch(num_classes=2), LossWatch(num_classes=2)
    for loss in losses[:10]:
        first.verdict(loss)
    second = LossWatch(2, *first.state())
    told = [straight.verdict(loss) for loss in losses]
    assert told[10:] == [second.verdict(loss) for loss in losses[10:]]


def test_doubt_comes_within_ten_steps_and_goes() -> None:
    watch = LossWatch(num_classes=2)
    doubts = []
    for loss in [CHANCE] * 30 + [0.2] * 60 + [CHANCE] * 10 + [0.2] * 5:
        watch.verdict(loss)
        doubts.append(watch.is_doubtful)
    assert not any(doubts[:90]), "it has not learned yet, or nothing is wrong"
    assert doubts[99] and not doubts[-1]
    assert LossWatch(2, *watch.state()).recent == watch.recent


@pytest.mark.parametrize("teacher", ["none", "in_place", "frozen"])
def test_a_step_tells_the_label_loss_of_its_leading_subnet(teacher: str) -> None:
    phase = Phase(
        name="p", epochs=1, draw="sandwich", subnets_per_step=2, learning_rate=0.1, teacher=teacher
    )
    plan = Plan(name="one", phases=(phase,), reference_batch=16, label_smoothing=0.1)
    frozen = tiny_net(1).train() if teacher == "frozen" else None
    context = StepContext(plan=plan, phase=phase, ranks=Ranks(), teacher=frozen)
    images = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10) % 3
    space = SPEC.space.restrict(resolution=(8,))
    net = tiny_net().train()
    with torch.no_grad():
        expected = cross_entropy(net(images, space.largest), labels, label_smoothing=0.1)
    archs = [space.largest, space.smallest]
    result = accumulate_gradients(net, [(images, labels)], archs, context).read()
    assert result.label_loss == pytest.approx(float(expected), rel=1e-5)
    is_sum = teacher == "frozen"
    assert (result.losses[0] > result.label_loss + 0.5) == is_sum
