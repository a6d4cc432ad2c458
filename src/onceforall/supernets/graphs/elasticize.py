"""From a trained network to its elastic form: ``ofa.elasticize(model, example_input)``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onceforall.errors import BlueprintError
from onceforall.graph import Computed, Graph, Node, Weight
from onceforall.supernets.graphs.assemble import ElasticChoices, assembled, kernel_sites
from onceforall.supernets.graphs.blocks import find_stages
from onceforall.supernets.graphs.channels import analysed, constant_shapes
from onceforall.supernets.graphs.exported import in_eval_mode
from onceforall.supernets.graphs.groups import Groups, channel_groups
from onceforall.supernets.graphs.operands import Channels
from onceforall.supernets.graphs.spec import GraphSpec
from onceforall.supernets.graphs.supernet import GraphSupernet
from onceforall.supernets.graphs.trace import Program, trace

# A network that is traced rightly is equal to the bit; other kernels may round differently.
_MOST_ROUNDING = 1e-5


def elasticize(
    model: nn.Module,
    example_input: Tensor,
    *,
    choices: ElasticChoices | None = None,
    name: str = "",
) -> GraphSupernet:
    """Return the elastic form of a trained network, with copies of its weights, in eval mode.

    Its largest subnet is the network, to the bit. Elastic are the width of every group of channels
    that can be cut together, the depth of every chain of blocks that can be skipped, and depthwise
    kernels of side 5 and more.

    Args:
        model: Network from images ``(B, 3, H, W)`` to logits ``(B, K)``, e.g. of torchvision or
            timm; as it was afterwards.
        example_input: Images ``(B, 3, R, R)``; shape, number format and device count.
        choices: What is elastic, and how far; see :class:`ElasticChoices`.
        name: Where the network is from, for messages and files.

    Raises:
        BlueprintError: If it cannot be traced, if nothing of it can be elastic, or if the traced
            network computes something else; naming the node.

    Example:
        >>> model = torchvision.models.resnet18()  # doctest: +SKIP
        >>> net = elasticize(model, torch.zeros(1, 3, 224, 224))  # doctest: +SKIP
        >>> small = net.extract(net.space.smallest)  # doctest: +SKIP
    """
    spec, program = graph_spec(model, example_input, choices=choices, name=name)
    net = GraphSupernet(spec)
    targets = {**dict(net.model.named_parameters()), **dict(net.model.named_buffers())}
    with torch.no_grad():
        for key, tensor in program.tensors.items():
            if key in targets:
                targets[key].data = tensor.detach().clone(memory_format=torch.preserve_format)
        net.order.data = net.order.to(example_input.device)
        for matrix in net.transforms.values():
            matrix.data = matrix.to(example_input)
    net.eval()
    _check_equal(net, model, example_input)
    return net


def _check_equal(net: GraphSupernet, model: nn.Module, example: Tensor) -> None:
    """Refuse a trace that computes something else than the network."""
    side = net.spec.resolutions[-1]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, example.shape[1], side, side, generator=generator).to(example)
    with in_eval_mode(model), torch.no_grad():
        expected = model(images)
        expected = expected if isinstance(expected, Tensor) else next(iter(_tensors(expected)))
        found = net(images, net.space.largest)
    if torch.equal(found, expected):
        return
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not error <= _MOST_ROUNDING:
        raise BlueprintError(
            f"the traced network is off by {error:.2g} relative: it depends on something that "
            "tracing does not see"
        )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def graph_spec(
    model: nn.Module,
    example_input: Tensor,
    *,
    choices: ElasticChoices | None = None,
    name: str = "",
) -> tuple[GraphSpec, Program]:
    """Return the elastic form of a network as data, and its trace.

    Args:
        model: Network from images ``(B, 3, H, W)`` to logits ``(B, K)``; as it was afterwards.
        example_input: Images; their side is the largest resolution unless ``choices`` says more.
        choices: What is elastic.
        name: Where the network is from.

    Raises:
        BlueprintError: If it cannot be traced, or nothing of it can be elastic; naming the node.
    """
    choices = choices or ElasticChoices()
    sides = tuple(sorted({*choices.resolutions})) or (example_input.shape[-1],)
    programs = [trace(model, _resized(example_input, side)) for side in sides]
    program = programs[-1]
    for other in programs[:-1]:
        _check_same(other, program)
    shapes = constant_shapes(program)
    found = analysed(program, shapes)
    if choices.strict and found.problems:
        node, why = next(iter(found.problems.items()))
        raise BlueprintError(f"node {node}: {why}")
    groups = channel_groups(program, found)
    kernels = kernel_sites(program, shapes, choices)
    stages = find_stages(program.nodes, list(kernels))
    spec = assembled(programs, found, groups, stages, kernels, shapes, choices)
    spec = replace(spec, name=name, resolutions=sides)
    if spec.space.size == len(sides):
        why = "; ".join(f"node {node}: {text}" for node, text in list(spec.rigid)[:3])
        raise BlueprintError(
            f"{name or type(model).__name__} has nothing that can be elastic"
            f"{': ' + why if why else ''}"
        )
    return spec, program


def traced_graph(model: nn.Module, example_input: Tensor) -> Graph:
    """Return a network as a graph; nothing of it is elastic.

    Raises:
        BlueprintError: If it cannot be traced; naming the node.
    """
    program = trace(model, example_input)
    found, shapes = Channels(), constant_shapes(program)
    groups = Groups(
        sizes=(), channels=(), group_of=np.zeros(0, dtype=np.int64), makers=(), nodes=(),
        unit_of=np.zeros(0, dtype=np.int64), widths={}, vectors={},
    )  # fmt: skip
    rigid = ElasticChoices(ratios=(1.0,), depth=False)
    spec = assembled([program], found, groups, [], {}, shapes, rigid)
    return spec.blueprint(spec.space.largest)


def _resized(example: Tensor, side: int) -> Tensor:
    shape = (1, example.shape[1], side, side) if example.ndim == 4 else tuple(example.shape)
    return torch.empty(shape, dtype=example.dtype, device=example.device)


def _check_same(other: Program, program: Program) -> None:
    """Refuse networks that do something else at another input side."""
    if len(other.nodes) != len(program.nodes):
        raise BlueprintError(
            f"the network has {len(other.nodes)} operations at {other.side} px and "
            f"{len(program.nodes)} at {program.side} px: choose one resolution"
        )
    for a, b in zip(other.nodes, program.nodes, strict=True):
        if (a.op, a.inputs, _constants(a)) != (b.op, b.inputs, _constants(b)):
            raise BlueprintError(
                f"node {b.name} is {a.op} at {other.side} px and {b.op} at {program.side} px: "
                "choose one resolution"
            )
    if [*map(_calls, other.computed)] != [*map(_calls, program.computed)]:
        raise BlueprintError(
            f"what the network computes from its weights is not the same at {other.side} px as at "
            f"{program.side} px: choose one resolution"
        )
    for name, tensor in program.tensors.items():
        theirs = other.tensors.get(name)
        if theirs is None or theirs.shape != tensor.shape or not torch.equal(theirs, tensor):
            raise BlueprintError(
                f"constant {name} is another one at {other.side} px than at {program.side} px: "
                "choose one resolution"
            )


def _calls(node: Node) -> tuple[Any, ...]:
    return node.op, node.args, node.kwargs, node.shape


def _constants(node: Node) -> list[Weight | Computed]:
    return [part for part in node.parts() if isinstance(part, Weight | Computed)]
