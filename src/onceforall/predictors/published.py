"""The published accuracy predictors: read, and applied to populations.

Both are multilayer perceptrons with three hidden layers of 400 units and ReLU between, on one-hot
features (``features.py``). The tutorial's reads 128 features of the MobileNetV3 space and has a
bias at its output; the ResNet50D one reads 82, has none, and adds a base accuracy.

Shape legend: ``N`` archs, ``G`` genes, ``F`` features, ``H`` hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from onceforall.arch import Arch
from onceforall.encoding import Encoding, Rows
from onceforall.errors import CheckpointError
from onceforall.features import (
    FeatureLayout,
    published_mobilenet_layout,
    published_resnet_layout,
)
from onceforall.space import SearchSpace

Kind = Literal["mobilenet_v3", "resnet50d"]
MOBILENET_IMAGE_SIZES = tuple(range(112, 225, 16))
RESNET_IMAGE_SIZES = (128, 144, 160, 176, 192, 224, 240, 256)
_NUM_FEATURES: Mapping[Kind, int] = {"mobilenet_v3": 128, "resnet50d": 82}
# Rows of one matrix product: large enough to be fast, small enough to stay in the cache.
_CHUNK_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublishedPredictor:
    """A published accuracy predictor.

    Attributes:
        kind: The family whose archs it reads.
        weights: Weight of each layer, transposed: ``(F, H)``, ``(H, H)``, ``(H, H)``, ``(H, 1)``.
        biases: Bias of each layer, ``(H,)`` and ``(1,)``; the last one includes the base accuracy.
    """

    kind: Kind
    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]

    @property
    def image_sizes(self) -> tuple[int, ...]:
        """Return the image sizes that have a feature, ascending."""
        return RESNET_IMAGE_SIZES if self.kind == "resnet50d" else MOBILENET_IMAGE_SIZES

    def layout(self, encoding: Encoding) -> FeatureLayout:
        """Return the feature layout for rows of ``encoding``.

        Raises:
            ArchError: If a choice of the space, e.g. an image size, has no feature.
        """
        if self.kind == "resnet50d":
            return published_resnet_layout(encoding, self.image_sizes)
        return published_mobilenet_layout(encoding, self.image_sizes, sizes_last=True)

    def on_rows(self, encoding: Encoding) -> Callable[[Rows], NDArray[np.float32]]:
        """Return the function from rows ``(N, G)`` to predicted top-1 ``(N,)``, in [0, 1].

        Raises:
            ArchError: If a choice of the space has no feature.
        """
        first = self.layout(encoding).linear(self.weights[0], self.biases[0])

        def predict(rows: Rows) -> NDArray[np.float32]:
            result = np.empty(len(rows), dtype=np.float32)
            for start in range(0, len(rows), _CHUNK_ROWS):
                chunk = slice(start, start + _CHUNK_ROWS)
                result[chunk] = self._forward(first(rows[chunk]))
            return result

        return predict

    def predict(self, archs: Sequence[Arch], space: SearchSpace) -> NDArray[np.float32]:
        """Return the predicted top-1 of archs of ``space``, ``(N,)``, in [0, 1].

        Raises:
            ArchError: If an arch is not in the space or a choice of the space has no feature.
        """
        encoding = Encoding(space)
        return self.on_rows(encoding)(encoding.from_archs(archs))

    def _forward(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the top-1 from the first layer's outputs, which are overwritten."""
        np.maximum(hidden, 0, out=hidden)
        for weight, bias in zip(self.weights[1:-1], self.biases[1:-1], strict=True):
            hidden = hidden @ weight
            hidden += bias
            np.maximum(hidden, 0, out=hidden)
        top1: NDArray[np.float32] = (hidden @ self.weights[-1])[:, 0] + self.biases[-1]
        return top1


def read_published_predictor(path: Path) -> PublishedPredictor:
    """Read ``acc_predictor.pth`` or ``ofa_resnet50_acc_predictor.pth``.

    Raises:
        CheckpointError: If the file cannot be read or is neither of the two.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        resnet = "base_acc" in state
        names = (
            ["layers.0.0", "layers.1.0", "layers.2.0", "layers.3"]
            if resnet
            else ["0", "2", "4", "6"]
        )
        weights = [state[f"{name}.weight"].float().numpy().T for name in names]
        biases = [state[f"{name}.bias"].float().numpy() for name in names[:3]]
        biases.append(state["base_acc" if resnet else "6.bias"].float().numpy())
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a published accuracy predictor: {error}") from error
    kind: Kind = "resnet50d" if resnet else "mobilenet_v3"
    if weights[0].shape[0] != _NUM_FEATURES[kind]:
        raise CheckpointError(
            f"{path} reads {weights[0].shape[0]} features; a published {kind} predictor reads "
            f"{_NUM_FEATURES[kind]}"
        )
    return PublishedPredictor(
        kind=kind,
        weights=tuple(np.ascontiguousarray(weight) for weight in weights),
        biases=tuple(biases),
    )
