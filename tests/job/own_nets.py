"""Networks that tests name as users do."""

from __future__ import annotations

from torch import Tensor, nn

from tests.supernets.graphs.tiny import Block, conv


class Small(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3, 2)
        self.blocks = nn.Sequential(Block(16, 32), Block(16, 32))
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def make_small(num_classes: int = 3) -> nn.Module:
    return Small(num_classes)


def make_unwritable(num_classes: int = 3) -> nn.Module:
    """Return a network that trains, but that has no form in ONNX."""
    net = Small(num_classes)
    net.stem.append(nn.Softshrink())
    return net


def make_deep_unwritable(num_classes: int = 3) -> nn.Module:
    """Return one of which only a block that may be left out has no form in ONNX."""
    net = Small(num_classes)
    net.blocks[1].expand.append(nn.Softshrink())
    return net


def make_nothing() -> str:
    return "no network"
