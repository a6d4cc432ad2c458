"""A plain network that trains like a supernet: one arch, whose weights are all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from onceforall.arch import Arch
from onceforall.errors import ConfigError
from onceforall.genes import StageChoices
from onceforall.space import SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleSpec:
    """What a training engine asks of a stage table: a name for checkpoints, and the classes."""

    name: str
    num_classes: int


@final
class SingleArchNet(nn.Module):
    """Wraps a plain network so that the training engine can fine-tune it.

    Its space has one arch for each resolution; which arch is passed makes no difference.

    Args:
        plain: Network to train, in place.
        resolutions: Input sides in pixels, ascending.
        name: Name that its checkpoints carry.
        num_classes: Outputs of the network.
    """

    def __init__(
        self, plain: nn.Module, *, resolutions: tuple[int, ...], name: str, num_classes: int
    ) -> None:
        super().__init__()
        self.plain = plain
        self.spec = SingleSpec(name=name, num_classes=num_classes)
        only = StageChoices(num_blocks=1, depths=(1,), kernel_sizes=(1,), expand_ratios=(1,))
        self.space = SearchSpace(stages=(only,), resolutions=resolutions)

    def forward(self, images: Tensor, arch: Arch) -> Tensor:
        """Run the network; ``arch`` says nothing that the images do not."""
        logits: Tensor = self.plain(images)
        return logits

    def sort_channels(self, *, num_opened: int = 0) -> None:
        """Refuse: nothing is elastic here.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("a single network has no elastic width to sort channels for")
