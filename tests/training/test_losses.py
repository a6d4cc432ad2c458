"""Losses: the gradients of the alpha-divergence, and which alpha the adaptive loss takes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from onceforall.training.losses import (
    adaptive_alpha_loss,
    alpha_divergence,
    soft_target_loss,
)

CLASSES = 1000


def untrained(images: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(images, CLASSES, generator=generator)


def confident(images: int = 64) -> Tensor:
    """A teacher that gives its class a logit of 12 above the noise, about 0.99."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(images, CLASSES, generator=generator)
    return logits.index_put((torch.arange(images), torch.arange(images)), torch.tensor(12.0))


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0].flatten()


def one_alpha_loss(student: Tensor, teacher: Tensor, *, alpha: float, clip: float = 5.0) -> Tensor:
    return adaptive_alpha_loss(student, teacher, alpha_min=alpha, alpha_max=alpha, clip=clip)


def test_an_untrained_student_learns_from_a_confident_teacher_as_in_distillation() -> None:
    student, teacher = untrained().requires_grad_(), confident()
    wanted = gradient(soft_target_loss(student, teacher.softmax(dim=1)), student)
    found = gradient(adaptive_alpha_loss(student, teacher), student)
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.9999
    assert found.norm() == pytest.approx(float(wanted.norm()), rel=1e-4)
    assert wanted.norm() > 0.05


def test_images_take_the_alpha_whose_clipped_divergence_is_larger() -> None:
    # An unsure student (alpha_max), and one that is sure of a wrong class while the teacher is not.
    sure = torch.zeros(1, CLASSES).index_fill(1, torch.tensor([7]), 20.0)
    student = torch.cat([untrained(1), sure]).requires_grad_()
    teacher = torch.cat([confident(1), torch.zeros(1, CLASSES)])
    low = alpha_divergence(student.detach(), teacher, -1.0, clip=5.0)
    high = alpha_divergence(student.detach(), teacher, 1.0, clip=5.0)
    assert (low > high).tolist() == [False, False]  # the clipped ones are at most (5 - 1) / 2
    assert low.max() <= 2.0 < high.min()
    near = torch.zeros(1, 2).requires_grad_()  # q = (.5, .5), p = (.69, .31): alpha_min is larger
    target = torch.tensor([[0.8, 0.0]])
    expected = gradient(one_alpha_loss(near, target, alpha=-1.0), near)
    torch.testing.assert_close(gradient(adaptive_alpha_loss(near, target), near), expected)


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_the_surrogate_has_the_gradient_of_the_divergence(alpha: float) -> None:
    generator = torch.Generator().manual_seed(2)
    student = torch.randn(4, 10, generator=generator, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(4, 10, generator=generator, dtype=torch.float64)
    exact = gradient(alpha_divergence(student, teacher, alpha).mean(), student)
    loss = one_alpha_loss(student, teacher, alpha=alpha, clip=math.inf)
    torch.testing.assert_close(gradient(loss, student), exact)


def test_alpha_one_is_distillation_whatever_the_clip() -> None:
    student, teacher = untrained().requires_grad_(), confident()
    found = gradient(one_alpha_loss(student, teacher, alpha=1.0, clip=0.1), student)
    wanted = gradient(soft_target_loss(student, teacher.softmax(dim=1)), student)
    torch.testing.assert_close(found, wanted)
