"""The plain module of a blueprint: what is extracted, exported and shipped."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from onceforall.blueprint import (
    Blueprint,
    Bottleneck,
    Conv,
    FusedMBConv,
    GlobalPool,
    Identity,
    Layer,
    Linear,
    MaxPool,
    MBConv,
    Residual,
)
from onceforall.supernets.blocks import (
    BottleneckBlock,
    Classifier,
    ConvUnit,
    FusedMBConvBlock,
    GlobalMean,
    MBConvBlock,
    ResidualBlock,
)
from onceforall.supernets.published.checkpoint import published_state_dict
from onceforall.supernets.published.config_write import config_from_blueprint
from onceforall.supernets.published.keys import static_keys, static_spellings


@final
class StaticNet(nn.Module):
    """A plain network: stem, blocks and head run in order.

    It can be scripted, traced, exported and pickled without any elastic operator.

    Args:
        plan: Blueprint to build. Weights have PyTorch's default initialisation.

    Attributes:
        plan: The blueprint.
    """

    # TorchScript reads every attribute that it finds, and not every network has a configuration.
    __jit_unused_properties__ = __jit_ignored_attributes__ = ("config",)

    def __init__(self, plan: Blueprint) -> None:
        super().__init__()
        self.plan = plan
        self.stem = nn.Sequential(*(build_layer(layer, plan) for layer in plan.stem))
        self.blocks = nn.Sequential(*(build_layer(layer, plan) for layer in plan.blocks))
        self.head = nn.Sequential(*(build_layer(layer, plan) for layer in plan.head))

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.head(self.blocks(self.stem(images)))
        return logits

    def __dir__(self) -> list[str]:
        names: list[str] = super().__dir__()  # type: ignore[no-untyped-call]
        return [name for name in names if name != "config"]

    def published_state_dict(self) -> dict[str, Tensor]:
        """Return the tensors under their published keys, in published order."""
        return published_state_dict(self)

    @property
    def config(self) -> dict[str, Any]:
        """Return the published configuration, ready for ``json.dumps``.

        Raises:
            ConfigError: If a layer has none.
        """
        return config_from_blueprint(self.plan)

    def published_keys(self) -> dict[str, str]:
        """Return the published key of each key of the state dict, in published order."""
        return static_keys(self.plan)

    def published_spellings(self) -> dict[str, str]:
        """Return our key for every spelling of it that published files use."""
        return static_spellings(self.plan)


def build(plan: Blueprint) -> StaticNet:
    """Return the plain module of ``plan``, in training mode, freshly initialised."""
    return StaticNet(plan)


def memory_format(module: nn.Module) -> torch.memory_format:
    """Return how a network's convolution weights lie in memory: channels_last or contiguous.

    Weights that are both at once, as 1x1 and depthwise ones, decide nothing.
    """
    for weight in module.parameters():
        if weight.ndim == 4 and not weight.is_contiguous():
            return torch.channels_last
    return torch.contiguous_format


def build_layer(layer: Layer, plan: Blueprint) -> nn.Module:
    """Return the plain module of one layer record."""
    match layer:
        case Conv():
            return ConvUnit(layer, plan)
        case MBConv():
            return MBConvBlock(layer, plan)
        case Bottleneck():
            return BottleneckBlock(layer, plan)
        case Residual():
            return ResidualBlock(layer, plan)
        case FusedMBConv():
            return FusedMBConvBlock(layer, plan)
        case MaxPool():
            return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.kernel_size // 2)
        case GlobalPool():
            return GlobalMean()
        case Linear():
            return Classifier(layer)
        case Identity():
            return nn.Identity()
