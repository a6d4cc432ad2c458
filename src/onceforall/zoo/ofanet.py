"""The small family for CIFAR-10 behind its published names."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from onceforall.arch import Arch
from onceforall.space import SearchSpace
from onceforall.supernets.families import ofanet
from onceforall.supernets.static import StaticNet
from onceforall.supernets.supernet import Supernet


@final
class OFANet(nn.Module):
    """An elastic network with one kernel size, depth and width for all of it.

    A thin cover: stage table, weights and search space are those of ``net``, an ordinary supernet.
    A block has a residual where its input and output have the same shape. The source says "if and
    only if the expansion ratio is 1", which contradicts the released Once-for-All networks.

    Args:
        num_units: Units of blocks; at least 1.
        in_channels: Channels of the images.
        num_classes: Outputs of the classifier.
        max_width: Largest expand ratio of a block; half of it is the other choice.
        max_depth: Most blocks of a unit; one fewer is the other choice.
        max_kernel_size: Largest depthwise kernel; the other choice is smaller by two.

    Attributes:
        net: The supernet; train and search it as any other.
    """

    def __init__(
        self,
        num_units: int = 1,
        in_channels: int = 3,
        num_classes: int = 10,
        max_width: float = 4,
        max_depth: int = 3,
        max_kernel_size: int = 7,
    ) -> None:
        super().__init__()
        self.net = Supernet(
            ofanet(
                num_units=num_units,
                in_channels=in_channels,
                num_classes=num_classes,
                max_width=max_width,
                max_depth=max_depth,
                max_kernel_size=max_kernel_size,
            )
        )

    @property
    def space(self) -> SearchSpace:
        """Return the search space: 8 subnets by default."""
        return self.net.space

    def forward(self, images: Tensor, arch: Arch | None = None) -> Tensor:
        """Map images ``(B, C, H, W)`` to logits ``(B, num_classes)``.

        Args:
            images: Normalised images.
            arch: Subnet to run; by default the largest.
        """
        logits: Tensor = self.net(images, arch or self.space.largest)
        return logits

    def arch(
        self,
        kernel_size: int | None = None,
        depth: int | None = None,
        width: float | None = None,
    ) -> Arch:
        """Return the subnet of a kernel size, depth and width; by default the largest of each.

        Raises:
            ArchError: If a value is not one of the space.
        """
        return self.space.uniform(kernel_size=kernel_size, depth=depth, expand_ratio=width)

    def fixed_subnet(
        self,
        kernel_size: int | None = None,
        depth: int | None = None,
        width: float | None = None,
    ) -> StaticNet:
        """Return a plain copy of a subnet, without transform matrices, in eval mode.

        Its weights are those of the supernet; recalibrate its batch norms before trusting its
        accuracy.

        Raises:
            ArchError: If a value is not one of the space.
        """
        return self.net.extract(self.arch(kernel_size, depth, width))
