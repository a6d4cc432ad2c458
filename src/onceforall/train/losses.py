"""Losses: labels, soft targets, and the alpha-divergence.

Shape suffixes: B batch, K classes.
"""

from __future__ import annotations

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


def alpha_divergence_loss(
    logits_BK: Tensor, teacher_logits_BK: Tensor, *, alpha: float, clip: float = 5.0
) -> Tensor:
    """Return a mean surrogate whose gradient is that of the alpha-divergence ``D_a(p || q)``.

    With teacher ``p`` and student ``q``, ``D_a = (sum p^a q^(1-a) - 1) / (a (a - 1))``. Its
    gradient with respect to the student is that of ``-sum w log q`` with the weights
    ``w = q (p/q)^a / a`` held constant; for ``a = 1`` that is soft-target cross-entropy, and for
    ``a -> 0``, up to a constant, ``w = q log(p/q)``, the reverse Kullback-Leibler divergence.
    Ratios are clipped, which bounds the variance.

    Args:
        alpha: Negative values punish the student's over-confidence, positive under-confidence.
        clip: Largest ``(p/q)^a`` that counts.

    Source: Wang et al., *AlphaNet*, ICML 2021, section 3.
    """
    return _alpha_surrogate(logits_BK, teacher_logits_BK, alpha, clip).mean()


def adaptive_alpha_loss(
    logits_BK: Tensor,
    teacher_logits_BK: Tensor,
    *,
    alpha_min: float = -1.0,
    alpha_max: float = 1.0,
    clip: float = 5.0,
) -> Tensor:
    """Return, image by image, the surrogate of the larger of the two divergences; mean over B.

    Source: Wang et al., *AlphaNet*, ICML 2021, section 4.
    """
    low = alpha_divergence(logits_BK.detach(), teacher_logits_BK, alpha_min)
    high = alpha_divergence(logits_BK.detach(), teacher_logits_BK, alpha_max)
    low_loss = _alpha_surrogate(logits_BK, teacher_logits_BK, alpha_min, clip)
    high_loss = _alpha_surrogate(logits_BK, teacher_logits_BK, alpha_max, clip)
    return torch.where(low > high, low_loss, high_loss).mean()


def alpha_divergence(logits_BK: Tensor, teacher_logits_BK: Tensor, alpha: float) -> Tensor:
    """Return ``D_a(p || q)`` of every image, ``(B,)``; the Kullback-Leibler limits at 0 and 1."""
    log_q, log_p = F.log_softmax(logits_BK, dim=1), F.log_softmax(teacher_logits_BK, dim=1)
    if abs(alpha - 1) < 1e-3:
        return (log_p.exp() * (log_p - log_q)).sum(dim=1)
    if abs(alpha) < 1e-3:
        return (log_q.exp() * (log_q - log_p)).sum(dim=1)
    power_B = (alpha * log_p + (1 - alpha) * log_q).exp().sum(dim=1)
    return (power_B - 1) / (alpha * (alpha - 1))


def _alpha_surrogate(
    logits_BK: Tensor, teacher_logits_BK: Tensor, alpha: float, clip: float
) -> Tensor:
    log_q = F.log_softmax(logits_BK, dim=1)
    with torch.no_grad():
        log_ratio = F.log_softmax(teacher_logits_BK, dim=1) - log_q
        if abs(alpha) < 1e-3:
            weight = log_q.exp() * log_ratio.clamp(-clip, clip)
        else:
            weight = log_q.exp() * (alpha * log_ratio).exp().clamp(max=clip) / alpha
    return -(weight * log_q).sum(dim=1)
