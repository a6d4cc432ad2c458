"""Finding the arch of a static network among the subnets of a stage table."""

from __future__ import annotations

from dataclasses import replace

from onceforall.arch import Arch
from onceforall.blueprint import Block, Blueprint, Conv, Layer, Linear
from onceforall.errors import ArchError
from onceforall.supernets.spec import TableSpec


def arch_from_blueprint(spec: TableSpec, plan: Blueprint, *, resolution: int) -> Arch:
    """Return the arch whose subnet is ``plan``; number of classes and dropout may differ.

    Where two width multipliers give the same channels, the smaller one is taken.

    Args:
        spec: Stage table to look in.
        plan: Static network, for example of a published configuration.
        resolution: Input side of the arch, in pixels; any.

    Raises:
        ArchError: If no subnet of the table is ``plan``.
    """
    space = spec.space
    fixed = len(plan.stage_sizes) - len(space.stages)
    depth = plan.stage_sizes[fixed:]
    if fixed not in (0, 1) or any(not isinstance(b, Block) for b in plan.blocks):
        raise ArchError(
            f"a network with stages of {plan.stage_sizes} blocks has no arch in a space of "
            f"{len(space.stages)} stages"
        )
    kernels, ratios, start = [], [], sum(plan.stage_sizes[:fixed])
    for count in depth:
        records = plan.blocks[start : start + count]
        kernels.append(tuple(b.kernel_size for b in records))  # type: ignore[union-attr]
        ratios.append(tuple(b.expand_ratio for b in records))  # type: ignore[union-attr]
        start += count
    residual_stem = any(isinstance(s, Conv) and s.residual for s in plan.stem)
    arch = Arch(
        resolution=resolution,
        depth=depth,
        kernel_size=tuple(kernels),
        expand_ratio=tuple(ratios),
        width_mult=space.largest.width_mult,
        stem_depth=int(residual_stem) if space.stem_depths else None,
    )
    # A site decides the output channels of its own layers, whatever the other sites choose.
    for site, choices in enumerate(space.width_sites):
        options = [
            replace(arch, width_mult=(*arch.width_mult[:site], m, *arch.width_mult[site + 1 :]))
            for m in choices
        ]
        arch = max(options, key=lambda option: _agreement(spec.blueprint(option), plan))
    if _body(spec.blueprint(arch)) != _body(plan):
        raise ArchError(f"the network is not a subnet of the space; the nearest is {arch}")
    return arch


def _agreement(first: Blueprint, second: Blueprint) -> int:
    pairs = zip(first.layers, second.layers, strict=False)
    return sum(_width(a) == _width(b) for a, b in pairs)


def _width(layer: Layer) -> int | None:
    return layer.out_channels if isinstance(layer, Conv | Block) else None


def _body(plan: Blueprint) -> Blueprint:
    """Return the network with nothing that training may change in the classifier."""
    head = tuple(
        replace(layer, out_features=1, dropout=0.0) if isinstance(layer, Linear) else layer
        for layer in plan.head
    )
    return replace(plan, head=head)
