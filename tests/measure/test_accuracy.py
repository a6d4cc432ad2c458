"""Accuracy by hand-made logits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from onceforall.errors import MeasurementError
from onceforall.measure.accuracy import evaluate


def test_hits_are_counted_over_ragged_batches() -> None:
    logits = torch.eye(7)[torch.tensor([0, 1, 2, 3, 4])] * 10
    logits[1] = torch.tensor([7.0, 3, 6, 5, 4, 2, 1])  # label 1 is fifth
    logits[2] = torch.tensor([7.0, 6, 1, 5, 4, 3, 2])  # label 2 is last
    batches = [(logits[:2], torch.tensor([0, 1])), (logits[2:], torch.tensor([2, 3, 4]))]
    accuracy = evaluate(lambda x: x, batches)
    assert (accuracy.top1, accuracy.top5, accuracy.images) == (3 / 5, 4 / 5, 5)


def test_loss_is_the_mean_cross_entropy() -> None:
    accuracy = evaluate(lambda x: x, [(torch.zeros(3, 4), torch.tensor([0, 1, 2]))])
    assert accuracy.loss == pytest.approx(math.log(4))
    assert accuracy.top5 == 1.0  # fewer than five classes


def test_nothing_to_count_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="at least 1 image"):
        evaluate(lambda x: x, [])


def test_a_network_in_training_mode_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="training mode"):
        evaluate(nn.Flatten(), [(torch.zeros(1, 4), torch.tensor([0]))])
