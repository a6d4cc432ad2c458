"""The published accuracy predictors: read, and applied to populations.

Both are multilayer perceptrons with three hidden layers of 400 units and ReLU between, on one-hot
features (``features.py``). The tutorial's reads 128 features of the MobileNetV3 space and has a
bias at its output; the ResNet50D one reads 82, has none, and adds a base accuracy.

Shape legend: ``N`` archs, ``G`` genes, ``F`` features, ``H`` hidden units.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onceforall.arch import Arch
from onceforall.encoding import Encoding, Rows
from onceforall.errors import ArchError, CheckpointError
from onceforall.predictors.accuracy import MOST_TOP1
from onceforall.predictors.published_features import (
    FeatureLayout,
    published_mobilenet_layout,
    published_resnet_layout,
)
from onceforall.space import SearchSpace
from onceforall.supernets.published.checkpoint import read_weights

Kind = Literal["mobilenet_v3", "resnet50d"]
MOBILENET_IMAGE_SIZES = tuple(range(112, 225, 16))
RESNET_IMAGE_SIZES = (128, 144, 160, 176, 192, 224, 240, 256)
_LAYERS: Mapping[Kind, tuple[str, ...]] = {
    "mobilenet_v3": ("0", "2", "4", "6"),
    "resnet50d": ("layers.0.0", "layers.1.0", "layers.2.0", "layers.3"),
}
_NUM_FEATURES: Mapping[Kind, int] = {"mobilenet_v3": 128, "resnet50d": 82}
# Rows of one matrix product: large enough to be fast, small enough to stay in the cache.
_CHUNK_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What is known of a released file, and cannot be read from it.

    Attributes:
        image_sizes: Image sizes that it was trained with.
        scale: What its top-1 is a share of, and how that compares with measured accuracy.
    """

    image_sizes: tuple[int, ...]
    scale: str


# By the digest of the weights. The tutorial's predictor has features of 112 to 144 px too, and
# puts subnets at 128 px above the same ones at 160: those features were never trained.
_RELEASED: Mapping[str, Released] = {
    "bac28449654b9c1504a23887051dd0d19ed6cc4858a5a2849ac2fbd93ba2d410": Released(
        image_sizes=tuple(range(160, 225, 16)),
        scale="5.8 to 6 points above top-1 measured on ImageNet's validation images",
    ),
}
_UNKNOWN_SCALE = "that of the predictor's own training: what is measured may be points below"


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
        """Return the image sizes that have a feature, in order; see ``known_sizes``."""
        return RESNET_IMAGE_SIZES if self.kind == "resnet50d" else MOBILENET_IMAGE_SIZES

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the weights, however their file was written."""
        arrays = (*self.weights, *self.biases)
        return hashlib.sha256(b"".join(map(np.ndarray.tobytes, arrays))).hexdigest()

    @property
    def known_sizes(self) -> tuple[int, ...]:
        """Return the image sizes whose predictions mean something, ascending."""
        released = _RELEASED.get(self.digest)
        return self.image_sizes if released is None else released.image_sizes

    @property
    def scale(self) -> str:
        """Return in words how predicted top-1 compares with measured accuracy, at which sizes."""
        released, sizes = _RELEASED.get(self.digest), self.known_sizes
        said = _UNKNOWN_SCALE if released is None else released.scale
        return f"{said}; it knows images of {min(sizes)} to {max(sizes)} px"

    def layout(self, encoding: Encoding) -> FeatureLayout:
        """Return the feature layout for rows of ``encoding``.

        Raises:
            ArchError: If a choice of the space, e.g. an image size, has no feature, or the space
                has other blocks than the predictor's.
        """
        if self.kind == "resnet50d":
            layout = published_resnet_layout(encoding, self.image_sizes)
        else:
            layout = published_mobilenet_layout(encoding, self.image_sizes, sizes_last=True)
        if layout.num_features != len(self.weights[0]):
            raise ArchError(
                f"the space has no feature in this layout for some blocks: it has "
                f"{layout.num_features} features, the predictor's has {len(self.weights[0])}"
            )
        return layout

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
        with np.errstate(over="ignore", invalid="ignore"):  # what is no number is refused below
            top1 = self._layers(hidden)
        if not (np.abs(top1) <= MOST_TOP1).all():
            raise CheckpointError(
                f"the accuracy predictor says top-1 {top1[~(np.abs(top1) <= MOST_TOP1)][0]:g}, "
                "which is no share of images: its file is damaged"
            )
        return top1

    def _layers(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
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
    state = read_weights(path)
    kind: Kind = "resnet50d" if "base_acc" in state else "mobilenet_v3"
    names = _LAYERS[kind]
    keys = [f"{name}.weight" for name in names] + [f"{name}.bias" for name in names[:-1]]
    keys.append("base_acc" if kind == "resnet50d" else f"{names[-1]}.bias")
    if missing := [key for key in keys if key not in state]:
        raise CheckpointError(f"{path} is not a published accuracy predictor: no {missing[0]}")
    arrays = [state[key].detach().float().numpy() for key in keys]
    weights, biases = arrays[: len(names)], arrays[len(names) :]
    shapes = [weight.shape for weight in weights]
    hidden = [shape[0] for shape in shapes[:-1] if len(shape) == 2]
    sizes = [_NUM_FEATURES[kind], *hidden, 1]
    if shapes != [(after, before) for before, after in itertools.pairwise(sizes)]:
        raise CheckpointError(
            f"{path} has weights of shapes {shapes}; those of a published {kind} predictor start "
            f"with {_NUM_FEATURES[kind]} features, end with 1 and fit one another"
        )
    if [bias.shape for bias in biases] != [(size,) for size in sizes[1:]]:
        raise CheckpointError(f"{path} has biases of shapes {[bias.shape for bias in biases]}")
    if not all(np.isfinite(array).all() for array in arrays):
        raise CheckpointError(f"{path} holds numbers that are none")
    return PublishedPredictor(
        kind=kind,
        weights=tuple(np.ascontiguousarray(weight.T) for weight in weights),
        biases=tuple(biases),
    )
