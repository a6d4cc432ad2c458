"""What is elastic in a network, and what is not and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from onceforall.job.outside_nets import make_network
from onceforall.measure.costs import count_macs, count_params
from onceforall.supernets.graphs.assemble import ElasticChoices
from onceforall.supernets.graphs.elasticize import graph_spec
from onceforall.supernets.graphs.spec import GraphSpec


def network_facts(source: str, *, resolution: int, num_classes: int) -> dict[str, Any]:
    """Return what is elastic in a network, as a JSON object.

    Args:
        source: ``torchvision:NAME``, ``timm:NAME`` or ``module.path:function``.
        resolution: Side of its images in pixels.
        num_classes: Logits.

    Raises:
        BlueprintError: If it cannot be made elastic; naming the node.
        ConfigError: If there is no such network.
    """
    model = make_network(source, num_classes=num_classes)
    images = torch.zeros(1, 3, resolution, resolution)
    spec, _ = graph_spec(model, images, choices=ElasticChoices(), name=source)
    return spec_facts(spec)


def spec_facts(spec: GraphSpec) -> dict[str, Any]:
    """Return what is elastic in a traced network, as a JSON object."""
    space, side = spec.space, spec.resolutions[-1]
    plans = {"smallest": spec.blueprint(space.smallest), "largest": spec.blueprint(space.largest)}
    return {
        "net": spec.name,
        "resolution": side,
        "any_resolution": spec.any_resolution,
        "classes": spec.num_classes,
        "groups": len(spec.groups),
        "coupled_groups": sum(group.coupled for group in spec.groups),
        "chains": sum(any(block.skips for block in stage) for stage in spec.stages),
        "skippable_blocks": sum(bool(block.skips) for stage in spec.stages for block in stage),
        "kernel_sites": sum(len(block.kernels) for stage in spec.stages for block in stage),
        "genes": dict(Counter(gene.axis for gene in space.genes)),
        "subnets": float(space.size),
        "macs": {name: count_macs(plan, resolution=side) for name, plan in plans.items()},
        "params": {name: count_params(plan) for name, plan in plans.items()},
        "stages": [
            {
                "blocks": [block.name for block in stage],
                "depths": list(choices.depths),
                "kernel_sizes": [list(block.kernel_sizes) for block in stage],
                "expand_ratios": [list(block.expand_ratios) for block in stage],
            }
            for stage, choices in zip(spec.stages, space.stages, strict=True)
        ],
        "widths": dict(zip(spec.site_names, map(list, spec.width_choices), strict=True)),
        "rigid": dict(spec.rigid),
    }


def fact_lines(facts: dict[str, Any]) -> Iterator[str]:
    """Yield the facts as lines to read."""
    macs, params = facts["macs"], facts["params"]
    genes = ", ".join(f"{count} {axis}" for axis, count in facts["genes"].items())
    yield f"{facts['net']}  {facts['resolution']} px, {facts['classes']} classes"
    yield (
        f"channel groups  {facts['groups']}, {facts['coupled_groups']} of them made by several "
        "layers"
    )
    yield f"chains          {facts['chains']} with {facts['skippable_blocks']} skippable blocks"
    yield f"kernel sites    {facts['kernel_sites']}"
    yield f"genes           {genes}"
    yield f"subnets         {facts['subnets']:.2g}"
    yield f"MACs            {macs['smallest'] / 1e6:.4g} to {macs['largest'] / 1e6:.4g} M"
    yield f"params          {params['smallest'] / 1e6:.4g} to {params['largest'] / 1e6:.4g} M"
    for number, stage in enumerate(facts["stages"], start=1):
        kernels = sorted({k for each in stage["kernel_sizes"] for k in each} - {0})
        ratios = sorted({e for each in stage["expand_ratios"] for e in each})
        parts = [f"depth {_span(stage['depths'])}", f"expand {_span(ratios)}"]
        parts += [f"kernel {_span(kernels)}"] if kernels else []
        yield f"stage {number:<2}        {stage['blocks'][0]} ..., {', '.join(parts)}"
    for name, choices in facts["widths"].items():
        yield f"width           {name}: {_span(choices)}"
    for node, why in facts["rigid"].items():
        yield f"rigid           {node}: {why}"


def _span(choices: list[Any]) -> str:
    return "/".join(f"{choice:g}" for choice in choices)
