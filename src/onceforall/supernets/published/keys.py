"""The published names of every tensor: strings from blueprints, nothing else.

The released checkpoints use three spellings. *Static* nets write ``.conv.weight`` and ``.bn.bias``;
*supernets* double the inner names of elastic layers (``.conv.conv.weight``, ``.bn.bn.bias``) and
have kernel transforms (``5to3_matrix``); files from before November 2020 write
``mobile_inverted_conv`` for the first ``conv`` of a block. The order of keys is the published one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import assert_never

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
from onceforall.supernets.spec import MBConvSpec, ResNetSpec, TableSpec

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """One layer: its place, its names, and whether its inner published names are doubled."""

    layer: Layer
    position: int
    ours: str
    published: str
    doubled: bool = False
    kernel_sizes: tuple[int, ...] = ()


def static_keys(plan: Blueprint) -> dict[str, str]:
    """Return the published key of each key of ``StaticNet(plan)``, in published order.

    Raises:
        BlueprintError: If the published spelling has no name for a layer of the plan.
    """
    return _keys(_sites(plan))


def supernet_keys(spec: TableSpec) -> dict[str, str]:
    """Return the published key of each key of ``Supernet(spec)``, in published order.

    Raises:
        BlueprintError: If the published spelling has no name for a layer of the table.
    """
    return _keys(_supernet_sites(spec))


def static_spellings(plan: Blueprint) -> dict[str, str]:
    """Return our key for every spelling of a static net's key that published files use."""
    return _spellings(_sites(plan))


def supernet_spellings(spec: TableSpec) -> dict[str, str]:
    """Return our key for every spelling of a supernet's key that published files use."""
    return _spellings(_supernet_sites(spec))


def _spellings(sites: list[_Site]) -> dict[str, str]:
    spellings: dict[str, str] = {}
    for doubled in (False, True):
        for ours, published in _keys([replace(site, doubled=doubled) for site in sites]).items():
            spellings[ours] = ours
            spellings[published] = ours
            spellings[_legacy(published)] = ours
    return spellings


def _legacy(published: str) -> str:
    """Return the spelling of before November 2020."""
    head, number, *rest = published.split(".")
    if head != "blocks" or rest[0] != "conv":
        return published
    return ".".join((head, number, "mobile_inverted_conv", *rest[1:]))


def _keys(sites: list[_Site]) -> dict[str, str]:
    return dict(pair for site in sites for pair in _site_keys(site))


def _supernet_sites(spec: TableSpec) -> list[_Site]:
    """Return the sites of a supernet: those of its largest net, with elastic layers doubled."""
    kernels: list[tuple[int, ...]] = []
    if isinstance(spec, MBConvSpec):
        kernels = [stage.kernel_sizes for stage in spec.stages for _ in range(stage.num_blocks)]
        kernels = [(), *kernels] if spec.fixed_block is not None else kernels
    plan = spec.blueprint(spec.space.largest)
    sites = []
    for site in _sites(plan):
        is_block = bool(kernels) and isinstance(site.layer, MBConv)
        sizes = kernels[site.position - len(plan.stem)] if is_block else ()
        ours = f"layers.{site.position}"
        sites.append(
            replace(
                site,
                ours=ours,
                doubled=bool(sizes) or isinstance(spec, ResNetSpec),
                kernel_sizes=sizes,
            )
        )
    return sites


def _sites(plan: Blueprint) -> list[_Site]:
    """Return the layers that have tensors, in published order."""
    resnet = any(isinstance(layer, Bottleneck) for layer in plan.blocks)
    named: list[tuple[str, str]] = []  # our name and the published one of every layer
    for i, layer in enumerate(plan.stem):
        published = f"input_stem.{i}" if resnet else "first_conv"
        residual = isinstance(layer, Conv) and layer.residual
        named.append((f"stem.{i}", f"{published}.conv" if residual else published))
    for i in range(len(plan.blocks)):
        named.append((f"blocks.{i}", f"blocks.{i}" if resnet else f"blocks.{i}.conv"))
    named += [(f"head.{i}", name) for i, name in enumerate(head_names(plan))]
    sites = [
        _Site(layer=layer, position=position, ours=ours, published=published)
        for position, (layer, (ours, published)) in enumerate(zip(plan.layers, named, strict=True))
        if isinstance(layer, Conv | Block | Linear)
    ]
    if len({site.published for site in sites}) != len(sites):
        raise BlueprintError("the published spelling has one name for two layers of this network")
    return sites


def head_names(plan: Blueprint) -> list[str]:
    """Return the published name of each layer of the head; "" for pooling.

    A convolution after the pool is ``feature_mix_layer`` and one before it ``final_expand_layer``
    (MobileNetV3); one before the pool alone is ``feature_mix_layer`` (ProxylessNAS).

    Raises:
        BlueprintError: If the head has a layer that the published spelling has no name for.
    """
    pools = [i for i, layer in enumerate(plan.head) if isinstance(layer, GlobalPool)]
    convs = [i for i, layer in enumerate(plan.head) if isinstance(layer, Conv)]
    mixes = [i for i in convs if pools and i > pools[0]] or convs[-1:]
    names = []
    for i, layer in enumerate(plan.head):
        if isinstance(layer, Linear):
            names.append("classifier")
        elif isinstance(layer, GlobalPool):
            names.append("")
        elif isinstance(layer, Conv):
            names.append("feature_mix_layer" if i in mixes else "final_expand_layer")
        else:
            raise BlueprintError(f"the published spelling has no name for {layer} in the head")
    return names


# -- the tensors of one layer ---------------------------------------------------------------------


def _site_keys(site: _Site) -> Iterator[tuple[str, str]]:
    ours, published, doubled = site.ours, site.published, site.doubled
    match site.layer:
        case Conv():
            yield from _conv(ours, published, doubled, layer=site.layer)
        case Linear():
            inner = "linear.linear" if doubled else "linear"
            for name in ("weight", "bias") if site.layer.bias else ("weight",):
                yield f"{ours}.linear.{name}", f"{published}.{inner}.{name}"
        case MBConv():
            yield from _mbconv(site, site.layer)
        case Bottleneck() | Residual():
            units = ["conv1", "conv2"]
            units += ["conv3"] if isinstance(site.layer, Bottleneck) else []
            units += [] if site.layer.downsample == "none" else ["downsample"]
            for unit in units:
                yield from _conv(f"{ours}.{unit}", f"{published}.{unit}", doubled)
        case FusedMBConv():
            for unit in ("expand", "point_linear"):
                yield from _conv(f"{ours}.{unit}", f"{published}.{unit}", doubled)
        case Identity() | MaxPool() | GlobalPool():
            return
        case _ as never:
            assert_never(never)


def _mbconv(site: _Site, layer: MBConv) -> Iterator[tuple[str, str]]:
    ours, published, doubled = site.ours, site.published, site.doubled
    if layer.has_expansion:
        name = "inverted_bottleneck"
        yield from _conv(f"{ours}.{name}", f"{published}.{name}", doubled)
    depthwise = f"{published}.depth_conv"
    # Smallest first, and before the weight they transform: the published order.
    for small, big in itertools.pairwise(sorted(site.kernel_sizes)):
        name = f"{big}to{small}"
        yield f"{ours}.depth_conv.conv.transforms.{name}", f"{depthwise}.conv.{name}_matrix"
    yield from _conv(f"{ours}.depth_conv", depthwise, doubled)
    if layer.se_channels:
        for name in ("reduce.weight", "reduce.bias", "expand.weight", "expand.bias"):
            yield f"{ours}.se.{name}", f"{depthwise}.se.fc.{name}"
    yield from _conv(f"{ours}.point_linear", f"{published}.point_linear", doubled)


def _conv(
    ours: str, published: str, doubled: bool, *, layer: Conv | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the keys of a convolution and its batch norm; without a record it is plain."""
    conv, norm = ("conv.conv", "bn.bn") if doubled else ("conv", "bn")
    yield f"{ours}.conv.weight", f"{published}.{conv}.weight"
    if layer is not None and layer.bias:
        yield f"{ours}.conv.bias", f"{published}.{conv}.bias"
    if layer is None or layer.norm:
        for name in _NORM:
            yield f"{ours}.bn.{name}", f"{published}.{norm}.{name}"
