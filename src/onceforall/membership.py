"""Whether an arch belongs to a space, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from onceforall.arch import Arch
from onceforall.genes import Gene, StageChoices, block_choices, mixed_choice


class _Space(Protocol):
    """What is asked of a search space."""

    @property
    def stages(self) -> tuple[StageChoices, ...]: ...

    @property
    def resolutions(self) -> tuple[int, ...]: ...

    @property
    def stem_depths(self) -> tuple[int, ...]: ...

    @property
    def width_sites(self) -> tuple[tuple[float, ...], ...]: ...

    @property
    def is_uniform(self) -> bool: ...

    @property
    def physical_genes(self) -> tuple[Gene, ...]: ...


def violation(space: _Space, arch: Arch) -> str | None:
    """Say what puts ``arch`` outside a space, or return None."""
    if len(arch.depth) != len(space.stages):
        return f"arch has {len(arch.depth)} stages where the space has {len(space.stages)}"
    if len(arch.width_mult) != len(space.width_sites):
        return (
            f"arch has {len(arch.width_mult)} width multipliers where the space has "
            f"{len(space.width_sites)}"
        )
    checks: list[tuple[str, Any, Sequence[Any]]] = [
        ("resolution", arch.resolution, space.resolutions),
        ("stem_depth", arch.stem_depth, space.stem_depths or (None,)),
    ]
    for i, (value, site) in enumerate(zip(arch.width_mult, space.width_sites, strict=True)):
        checks.append((f"width site {i}: width_mult", value, site))
    for i, stage in enumerate(space.stages):
        checks.append((f"stage {i}: depth", arch.depth[i], stage.depths))
        for block in range(arch.depth[i]):
            where = f"stage {i} block {block}:"
            kernel, ratio = arch.kernel_size[i][block], arch.expand_ratio[i][block]
            kernels = block_choices(stage, "kernel_size", block)
            ratios = block_choices(stage, "expand_ratio", block)
            checks.append((f"{where} kernel_size", kernel, kernels))
            checks.append((f"{where} expand_ratio", ratio, ratios))
    for name, value, allowed in checks:
        if value not in allowed:
            return f"{name} {value} is not one of {tuple(allowed)}"
    return mixed_choice(arch, space.physical_genes) if space.is_uniform else None
