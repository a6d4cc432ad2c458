"""The space around a trained network: its stage table made elastic, with its weights inside.

The network becomes one subnet of the space, and the largest subnet computes the same function: a
kernel lies in the centre of a larger one whose border is 0, and what reads further channels reads
them with weights of 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from onceforall.arch import Arch
from onceforall.blueprint import Blueprint, Conv, Identity, MBConv
from onceforall.errors import ConfigError
from onceforall.supernets.blocks import Classifier
from onceforall.supernets.published.recover import arch_from_blueprint
from onceforall.supernets.spec import FixedBlock, MBConvSpec, MBConvStage
from onceforall.supernets.static import StaticNet
from onceforall.supernets.supernet import Supernet, plain_layers


def space_around(plan: Blueprint, *, num_classes: int, resolutions: tuple[int, ...]) -> MBConvSpec:
    """Return the stage table of which a network of inverted bottlenecks is one subnet.

    Each stage offers the kernels and ratios that it has and one below, and may lose up to half of
    its blocks.

    Args:
        plan: Stem convolution, inverted bottlenecks, head; skipped blocks are left out.
        num_classes: Outputs of the new classifier.
        resolutions: Input sides in pixels, ascending.

    Raises:
        ConfigError: If the network is of another kind.
    """
    stem, groups = plan.stem[0], _groups(plan)
    if len(plan.stem) != 1 or not isinstance(stem, Conv):
        raise ConfigError("a space is built around a stem of one convolution and MBConv blocks")
    first = groups[0][0]
    fixed = None
    if len(groups[0]) == 1 and not first.has_expansion:
        fixed = FixedBlock(
            width=first.out_channels,
            kernel_size=first.kernel_size,
            stride=first.stride,
            activation=first.activation,
        )
        groups = groups[1:]
    convs = [layer for layer in plan.head if isinstance(layer, Conv)]
    expand = [layer for layer in convs if layer.norm]
    mix = [layer for layer in convs if not layer.norm]
    spec = MBConvSpec(
        num_classes=num_classes,
        resolutions=resolutions,
        stem_width=stem.out_channels,
        stem_stride=stem.stride,
        stem_activation=stem.activation,
        fixed_block=fixed,
        stages=tuple(_stage(blocks) for blocks in groups),
        expand_width=expand[0].out_channels if expand else 0,
        mix_width=mix[0].out_channels if mix else 0,
        head_activation=convs[0].activation if convs else "relu",
        norm_eps=plan.norm_eps,
        norm_momentum=plan.norm_momentum,
    )
    try:
        arch_from_blueprint(spec, without_skipped(plan), resolution=resolutions[-1])
    except ValueError as error:
        raise ConfigError(f"no space can be built around this network: {error}") from error
    return spec


def without_skipped(plan: Blueprint) -> Blueprint:
    """Return a network without the blocks that pass their input on."""
    sizes = [sum(not isinstance(block, Identity) for block in blocks) for blocks in _slices(plan)]
    kept = tuple(block for block in plan.blocks if not isinstance(block, Identity))
    return replace(plan, blocks=kept, stage_sizes=tuple(size for size in sizes if size))


@torch.no_grad()
def embed(net: Supernet, plain: StaticNet) -> Arch:
    """Copy a trained network into the space around it; the classifier only if it fits.

    Args:
        net: Supernet of :func:`space_around`; every weight is overwritten but a classifier for
            other classes.
        plain: The trained network.

    Returns:
        The arch that is the network.
    """
    plan = without_skipped(plain.plan)
    arch = arch_from_blueprint(net.spec, plan, resolution=net.space.resolutions[-1])
    layers = [layer for layer in plain_layers(plain) if not isinstance(layer, nn.Identity)]
    for module, twin in zip(net.active_modules(arch), layers, strict=True):
        if isinstance(twin, Classifier) and twin.linear.out_features != net.spec.num_classes:
            continue
        sources = twin.state_dict()
        for name, target in module.state_dict().items():
            if ".transforms." in name:
                target.copy_(torch.eye(len(target)))
            elif name in sources:
                _put(target, sources[name])
    return arch


def _put(target: Tensor, source: Tensor) -> None:
    """Copy a tensor into the first channels of a larger one.

    A convolution's filters lie in the centre of larger ones whose border is 0. Weights that read
    further channels become 0, so that these change nothing yet; the weights that make further
    channels stay as they were drawn, so that they can learn.
    """
    if target.ndim == 4:
        out_channels, in_channels = source.shape[:2]
        target[:, in_channels:] = 0
        target[:out_channels, :in_channels] = 0
        border = (target.shape[-1] - source.shape[-1]) // 2
        middle = slice(border, border + source.shape[-1])
        target[:out_channels, :in_channels, middle, middle] = source
    elif target.shape == source.shape:
        target.copy_(source)
    elif target.ndim == 1 and len(target) > len(source):
        target[: len(source)] = source


def _stage(blocks: Sequence[MBConv]) -> MBConvStage:
    kernels = {block.kernel_size for block in blocks}
    ratios = {block.expand_ratio for block in blocks}
    return MBConvStage(
        width=blocks[0].out_channels,
        stride=blocks[0].stride,
        activation=blocks[0].activation,
        squeeze_excite=any(block.se_channels for block in blocks),
        num_blocks=len(blocks),
        depths=tuple(range((len(blocks) + 1) // 2, len(blocks) + 1)),
        kernel_sizes=tuple(sorted(kernels | {max(3, min(kernels) - 2)})),
        expand_ratios=tuple(sorted(ratios | {max(1, min(ratios) - 1)})),
    )


def _groups(plan: Blueprint) -> list[list[MBConv]]:
    """Return the blocks of each stage, skipped ones left out."""
    groups = [[b for b in blocks if not isinstance(b, Identity)] for blocks in _slices(plan)]
    if any(not isinstance(block, MBConv) for group in groups for block in group) or not groups:
        raise ConfigError("a space is built around a stem of one convolution and MBConv blocks")
    return [group for group in groups if group]  # type: ignore[misc]


def _slices(plan: Blueprint) -> list[tuple[object, ...]]:
    ends = itertools.accumulate(plan.stage_sizes)
    return [plan.blocks[end - size : end] for size, end in zip(plan.stage_sizes, ends, strict=True)]
