"""A shipped model, ready to use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from onceforall.artifacts import Card
from onceforall.data.images.device_ops import normalize
from onceforall.data.images.pixels import read_centre
from onceforall.deploy.model_folder import read_model
from onceforall.supernets.nets import PlainNet


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A shipped model.

    Attributes:
        net: The plain network, in eval mode: normalised images ``(B, 3, R, R)`` to logits.
        card: What it is and what was measured.
    """

    net: PlainNet
    card: Card

    def read(self, *images: str | Path) -> Tensor:
        """Return image files as the network expects them, ``(B, 3, R, R)``.

        Raises:
            DataError: If a file cannot be read.
        """
        side, ratio = self.card.resolution, self.card.crop_ratio
        pixels = [read_centre(str(path), resolution=side, crop_ratio=ratio) for path in images]
        batch = torch.stack([torch.tensor(each) for each in pixels]).permute(0, 3, 1, 2)
        return normalize(batch, mean=self.card.mean, std=self.card.std)

    @torch.no_grad()
    def classify(self, *images: str | Path) -> list[tuple[str, float]]:
        """Return the class of each image file and how probable the network thinks it.

        Raises:
            DataError: If a file cannot be read.
        """
        if not images:
            return []
        best = self.net(self.read(*images)).softmax(dim=1).max(dim=1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.card.classes[index], probability) for index, probability in pairs]


def load_model(folder: str | Path) -> LoadedModel:
    """Return a shipped model.

    Args:
        folder: Folder of the model, e.g. ``runs/mine/models/net01-10M-32px``.

    Raises:
        VerificationError: If it holds no model, or a file was changed since it shipped.

    Example:
        >>> model = onceforall.load_model("runs/mine/models/net01")  # doctest: +SKIP
        >>> model.classify("cat.jpg")  # doctest: +SKIP
        [('cat', 0.97)]
    """
    card, net = read_model(Path(folder))
    return LoadedModel(net=net, card=card)
