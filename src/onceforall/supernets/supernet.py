"""Supernet: the weights of every arch of a search space, and nothing else.

``net(images, arch)`` runs one subnet. Which subnet is an argument; nothing remembers it.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from onceforall.arch import Arch
from onceforall.blueprint import (
    Block,
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
from onceforall.errors import BlueprintError
from onceforall.ops.conv import ElasticConv2d, ElasticDepthwiseConv2d
from onceforall.ops.dense import ElasticLinear, ElasticSqueezeExcite
from onceforall.ops.norm import ElasticBatchNorm2d, count_batch
from onceforall.space import SearchSpace
from onceforall.supernets.blocks import GlobalMean
from onceforall.supernets.elastic_blocks import (
    ElasticBottleneckBlock,
    ElasticClassifier,
    ElasticConvUnit,
    ElasticFusedMBConvBlock,
    ElasticMBConvBlock,
    ElasticResidualBlock,
)
from onceforall.supernets.published.checkpoint import published_state_dict
from onceforall.supernets.published.keys import supernet_keys, supernet_spellings
from onceforall.supernets.slots import active_slots, gene_values
from onceforall.supernets.spec import TableSpec
from onceforall.supernets.static import StaticNet, build, memory_format

ElasticBlock = (
    ElasticMBConvBlock | ElasticBottleneckBlock | ElasticResidualBlock | ElasticFusedMBConvBlock
)
ELASTIC_OPS = (
    ElasticConv2d, ElasticDepthwiseConv2d, ElasticLinear, ElasticSqueezeExcite, ElasticBatchNorm2d,
)  # fmt: skip


@final
class Supernet(nn.Module):
    """An elastic network built from a stage table.

    Args:
        spec: Stage table. The weights are freshly initialised from PyTorch's global generator.

    Attributes:
        spec: The stage table.
        space: Its search space.
        layers: One elastic module for each position of ``spec.slots``.
    """

    def __init__(self, spec: TableSpec) -> None:
        super().__init__()
        self.spec = spec
        self.space: SearchSpace = spec.space
        largest = spec.blueprint(self.space.largest)
        values = gene_values(self.space, self.space.largest)
        self.layers = nn.ModuleList()
        for slot in spec.slots:
            layer = slot.layer(values)
            kernel_sizes = next(
                (
                    self.space.stages[stage].kernel_sizes
                    for axis, stage, _ in slot.genes
                    if axis == "kernel_size"
                ),
                (),
            )
            self.layers.append(_elastic_layer(layer, kernel_sizes, largest))
        # Every norm of a layer runs when the layer does. Kept, because looking for them takes as
        # long as a forward pass of a small network.
        self._norms = [
            [module for module in layer.modules() if isinstance(module, ElasticBatchNorm2d)]
            for layer in self.layers
        ]

    def forward(self, images: Tensor, arch: Arch) -> Tensor:
        """Run the subnet ``arch``.

        Args:
            images: Normalised images ``(B, 3, H, W)``. Their side should be
                ``arch.resolution``; resizing is the data's business, not checked here.
            arch: Any arch of the space.

        Returns:
            Logits ``(B, num_classes)``.

        Raises:
            ArchError: If ``arch`` is not in the space.
        """
        slots = active_slots(self.spec, arch)
        count_batch([norm for index, _ in slots for norm in self._norms[index]])
        active = [(self.layers[index], layer) for index, layer in slots]
        # Kernel transforms are tiny products. All at once they take a fifth of the time that they
        # take one by one, each after a block has swept the processor's caches.
        weights = [
            module.depthwise_weight(layer)
            if isinstance(module, ElasticMBConvBlock) and isinstance(layer, MBConv)
            else None
            for module, layer in active
        ]
        x = images
        for (module, layer), weight in zip(active, weights, strict=True):
            if weight is not None:
                x = module(x, layer, weight)
            elif isinstance(layer, Conv | Block):
                x = module(x, layer)
            else:
                x = module(x)
        return x

    def blueprint(self, arch: Arch) -> Blueprint:
        """Return the static network of ``arch`` as data."""
        return self.spec.blueprint(arch)

    def extract(self, arch: Arch) -> StaticNet:
        """Return a plain copy of one subnet, in eval mode.

        Its outputs are bitwise equal to ``self(x, arch)`` in eval mode on a CPU: its weights lie
        in memory as the supernet's do, channels_last or contiguous, since each layout has kernels
        of its own, whose sums round differently. Batch-norm statistics are copied as they are:
        recalibrate them before trusting the accuracy.

        Raises:
            ArchError: If ``arch`` is not in the space.
        """
        parameter = next(self.parameters())
        # Initial weights would only be written over: memory is all that is needed.
        with torch.device("meta"):
            plain = build(self.blueprint(arch)).to(parameter.dtype)
        plain = plain.to(memory_format=memory_format(self)).to_empty(device=parameter.device)
        for module, twin in zip(self.active_modules(arch), plain_layers(plain), strict=True):
            _copy_weights(module, twin)
        return plain.eval()

    @torch.no_grad()
    def set_statistics(self, arch: Arch, plain: StaticNet) -> None:
        """Copy the batch-norm statistics of one subnet's plain twin to the channels that it runs.

        Args:
            arch: The subnet.
            plain: What :meth:`extract` gave for it, with statistics of its own.
        """
        for module, twin in zip(self.active_modules(arch), plain_layers(plain), strict=True):
            for name, operator in module.named_modules():
                if isinstance(operator, ElasticBatchNorm2d):
                    operator.copy_statistics(twin.get_submodule(name))  # type: ignore[arg-type]

    def active_modules(self, arch: Arch) -> list[nn.Module]:
        """Return the elastic modules that run for ``arch``, in order."""
        return [self.layers[index] for index, _ in active_slots(self.spec, arch)]

    def sort_channels(self, *, num_opened: int = 0) -> None:
        """Sort every block's middle channels by importance; the largest subnet is unchanged.

        Args:
            num_opened: How many smaller expand ratios have been trained already; channels beyond
                a trained width stay beyond it.

        Source: Cai et al., *Once-for-All*, ICLR 2020, section 3.3, "Elastic width".
        """
        values = gene_values(self.space, self.space.largest)
        for slot, module in zip(self.spec.slots, self.layers, strict=True):
            if not isinstance(module, ElasticBlock):
                continue
            widths: list[int] = []  # one for each ratio, equal ones too
            for key in slot.genes:
                if key[0] == "expand_ratio":
                    for ratio in self.space.stages[key[1]].expand_ratios:
                        layer = slot.layer({**values, key: ratio})
                        if isinstance(layer, Block):
                            widths.append(layer.mid_channels)
            module.sort_channels(sorted(widths, reverse=True), num_opened)

    def published_state_dict(self) -> dict[str, Tensor]:
        """Return the tensors under their published keys, in published order."""
        return published_state_dict(self)

    def published_keys(self) -> dict[str, str]:
        """Return the published key of each key of the state dict, in published order."""
        return supernet_keys(self.spec)

    def published_spellings(self) -> dict[str, str]:
        """Return our key for every spelling of it that published files use."""
        return supernet_spellings(self.spec)


def plain_layers(plain: StaticNet) -> list[nn.Module]:
    """Return the layers of a plain network in order of execution."""
    return [*plain.stem, *plain.blocks, *plain.head]


@torch.no_grad()
def _copy_weights(module: nn.Module, twin: nn.Module) -> None:
    """Copy one elastic layer's weights into its plain twin, operator by operator."""
    for name, operator in module.named_modules():
        if isinstance(operator, ELASTIC_OPS):
            operator.copy_to(twin.get_submodule(name))  # type: ignore[arg-type]


def _elastic_layer(
    layer: Layer | None, kernel_sizes: tuple[int, ...], norm: Blueprint
) -> nn.Module:
    match layer:
        case Conv(groups=1):
            return ElasticConvUnit(layer, norm)
        case MBConv():
            return ElasticMBConvBlock(layer, kernel_sizes or (layer.kernel_size,), norm)
        case Bottleneck():
            return ElasticBottleneckBlock(layer, norm)
        case Residual():
            return ElasticResidualBlock(layer, norm)
        case FusedMBConv():
            return ElasticFusedMBConvBlock(layer, norm)
        case MaxPool():
            return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.kernel_size // 2)
        case GlobalPool():
            return GlobalMean()
        case Linear() if layer.bias:
            return ElasticClassifier(layer)
        case Identity():
            return nn.Identity()
    raise BlueprintError(f"a stage table has no elastic form of {layer}")


def elastic(spec: TableSpec, *, seed: int | None = None) -> Supernet:
    """Return a fresh supernet of a stage table, laid out for speed (channels_last).

    Args:
        spec: Stage table: one of `onceforall.supernets.families`, or your own.
        seed: Seed of its weights; None draws them from PyTorch's current generator.
    """
    if seed is None:
        return _channels_last(Supernet(spec))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of this generator alone, not of any GPU's
        return _channels_last(Supernet(spec))


def _channels_last(net: Supernet) -> Supernet:
    return net.to(memory_format=torch.channels_last)
