"""Losses: labels, soft targets, and the alpha-divergence.

Shape suffixes: B batch, K classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def label_loss(logits_BK: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy to labels.

    Args:
        logits_BK: Float ``(B, K)``.
        labels: Class indices, int64 ``(B,)``, or class probabilities, float ``(B, K)``.
        label_smoothing: Mass spread evenly over all classes, in [0, 1).
    """
    return F.cross_entropy(logits_BK, labels, label_smoothing=label_smoothing)


def soft_target_loss(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Return the mean cross-entropy to class probabilities ``(B, K)``; temperature 1.

    Source: Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015; temperature and
    form as in the published Once-for-All recipe.
    """
    return -(targets_BK * F.log_softmax(logits_BK, dim=1)).sum(dim=1).mean()


def adaptive_alpha_loss(
    logits_BK: Tensor,
    teacher_logits_BK: Tensor,
    *,
    alpha_min: float = -1.0,
    alpha_max: float = 1.0,
    clip: float = 5.0,
) -> Tensor:
    """Return, image by image, the surrogate of the larger of two clipped divergences; mean over B.

    A student far from its teacher has a huge divergence at ``alpha_min``, but hardly a gradient
    once it is clipped: it is compared as it is trained on.

    Source: Wang et al., *AlphaNet*, ICML 2021, section 4, and the authors' code.
    """
    low = alpha_divergence(logits_BK.detach(), teacher_logits_BK, alpha_min, clip=clip)
    high = alpha_divergence(logits_BK.detach(), teacher_logits_BK, alpha_max, clip=clip)
    low_loss = _alpha_surrogate(logits_BK, teacher_logits_BK, alpha_min, clip)
    high_loss = _alpha_surrogate(logits_BK, teacher_logits_BK, alpha_max, clip)
    return torch.where(low > high, low_loss, high_loss).mean()


def alpha_divergence(
    logits_BK: Tensor, teacher_logits_BK: Tensor, alpha: float, *, clip: float = math.inf
) -> Tensor:
    """Return ``D_a(p || q)`` of every image, ``(B,)``; the Kullback-Leibler limits at 0 and 1.

    With teacher ``p`` and student ``q``, ``D_a = (sum p^a q^(1-a) - 1) / (a (a - 1))``.

    Args:
        alpha: Negative values punish the student's over-confidence, positive under-confidence.
        clip: Largest ``(p/q)^a`` that counts, or ``p/q`` for ``a = 0``; nothing at ``a = 1``.
    """
    log_q, log_p = F.log_softmax(logits_BK, dim=1), F.log_softmax(teacher_logits_BK, dim=1)
    if _is(alpha, 1):
        return (log_p.exp() * (log_p - log_q)).sum(dim=1)
    log_ratio = log_p - log_q
    if _is(alpha, 0):
        return (log_q.exp() * -log_ratio.clamp(max=math.log(clip))).sum(dim=1)
    # q (p/q)^a in one exponential: the ratio alone overflows where the product does not.
    power_B = (log_q + (alpha * log_ratio).clamp(max=math.log(clip))).exp().sum(dim=1)
    return (power_B - 1) / (alpha * (alpha - 1))


def _alpha_surrogate(
    logits_BK: Tensor, teacher_logits_BK: Tensor, alpha: float, clip: float
) -> Tensor:
    """Return ``(B,)`` surrogates whose gradient is that of the alpha-divergence.

    That gradient is the one of ``-sum w log q`` with the weights ``w = q (p/q)^a / a`` held
    constant; for ``a = 1`` that is soft-target cross-entropy, and for ``a -> 0``, up to a
    constant, ``w = q log(p/q)``, the reverse Kullback-Leibler divergence. Ratios are clipped,
    which bounds the variance; at ``a = 1`` the ratio cancels, and nothing is clipped.

    Source: Wang et al., *AlphaNet*, ICML 2021, section 3, and the authors' code.
    """
    log_q = F.log_softmax(logits_BK, dim=1)
    with torch.no_grad():
        log_p = F.log_softmax(teacher_logits_BK, dim=1)
        if _is(alpha, 1):
            weight = log_p.exp()
        elif _is(alpha, 0):
            weight = log_q.exp() * (log_p - log_q).clamp(max=math.log(clip))
        else:
            weight = (log_q + (alpha * (log_p - log_q)).clamp(max=math.log(clip))).exp() / alpha
    return -(weight * log_q).sum(dim=1)


def _is(alpha: float, limit: int) -> bool:
    """Return whether alpha is so near to a limit that its formula divides by nearly nothing."""
    return abs(alpha - limit) < 1e-3
