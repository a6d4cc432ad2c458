"""A linear probe: the linear classifier that does best on what a trained network makes of images.

Training that starts with a classifier drawn at random first unlearns what the network knows: its
gradients say nothing yet. Fitted beforehand, the classifier has no such gradients to give.

Source: Kumar et al., *Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution*, ICLR 2022.

Shape suffixes: N images, F features, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Weight of the squared weights of features scaled to variance 1, beside the mean loss of an image.
_PENALTY = 0.03
_MOST_ITERATIONS = 100
_SMALLEST_STD = 1e-6


@torch.no_grad()
def features_of(body: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return features ``(N, F)`` and labels ``(N,)``.

    Args:
        body: Network without classifier, in eval mode: images to features.
        batches: Images ``(B, 3, H, W)``, normalised, on the network's device, and labels ``(B,)``.
    """
    features, told = zip(
        *((body(images).float(), labels) for images, labels in batches), strict=True
    )
    return torch.cat(features), torch.cat(told)


def fit_linear(
    features: Tensor, labels: Tensor, *, num_classes: int, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return weight ``(C, F)`` and bias ``(C,)`` of logistic regression with a penalty.

    Args:
        features: ``(N, F)``, float.
        labels: ``(N,)``, in ``[0, num_classes)``.
        num_classes: Rows of the weight.
        label_smoothing: In [0, 1).
    """
    mean, std = features.mean(0), features.std(0, correction=0).clamp_min(_SMALLEST_STD)
    scaled = (features - mean) / std
    weight = scaled.new_zeros((num_classes, features.shape[1]), requires_grad=True)
    bias = scaled.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MOST_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(scaled, weight, bias)
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        loss = loss + _PENALTY / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    plain = weight.detach() / std
    return plain, bias.detach() - plain @ mean
