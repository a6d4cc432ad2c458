"""The plain module of a graph: what is extracted, exported and shipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from onceforall.errors import BlueprintError
from onceforall.graph import Batch, Graph, Node, NormInfo, Weight, WeightInfo
from onceforall.supernets.graphs.run import Step, run_steps, steps_of

_NORMS: dict[int, type[nn.BatchNorm1d] | type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {
    2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d,
}  # fmt: skip

# Images that a network is checked with; what operators raise that are given something wrong.
_IMAGES = 2
_WRONG = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@final
class GraphNet(nn.Module):
    """A plain network that was cut out of a traced one.

    Its parameters have the keys of the original network.

    Args:
        plan: Graph to build. Weights are uninitialised, norms at their defaults.

    Attributes:
        plan: The graph.
    """

    def __init__(self, plan: Graph) -> None:
        super().__init__()
        self.plan = plan
        add_tensors(self, plan.weights)
        add_norms(self, plan.norms, plan.nodes)
        self._prepare()

    def _prepare(self) -> None:
        self._norms = {norm.name: self.get_submodule(norm.name) for norm in self.plan.norms}
        self._names = tuple((Weight(w.name), *_home(self, w.name)) for w in self.plan.weights)
        self._steps: list[Step] = steps_of(
            list(enumerate(self.plan.nodes)),
            self.plan.output,
            normalise=lambda name, x: self._norms[name](x),
            module=self,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, R, R)`` to logits ``(B, num_classes)``."""
        count, output = len(self.plan.nodes), self.plan.output
        return run_steps(self._steps, count, output, images, self._tensors())

    def check(self) -> None:
        """Run once and compare every shape with what the graph says, e.g. on the meta device.

        Raises:
            BlueprintError: Naming the first node that does not run, or gives something else.
        """
        nodes, node = self.plan.nodes, self.plan.nodes[0]
        results: list[Any] = [None] * (len(nodes) + 1)
        try:
            results[0], results[-1] = torch.empty(_sizes(node)), _IMAGES
            for number, step in enumerate(self._steps, start=1):
                node = nodes[number]
                step(results, self._tensors())
                if tuple(results[number].shape) != _sizes(node):
                    raise ValueError(f"it gives {tuple(results[number].shape)}, not {node.shape}")
            if _sizes(nodes[self.plan.output]) != (_IMAGES, self.plan.num_classes):
                raise ValueError(
                    f"the output has another shape than {self.plan.num_classes} logits"
                )
        except _WRONG as error:
            reason = " ".join(str(error).split())[:200]
            raise BlueprintError(f"node {node.name} ({node.op}) does not run: {reason}") from error

    def _tensors(self) -> dict[Any, Tensor]:
        return {weight: getattr(home, name) for weight, home, name in self._names}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made of the plan."""
        made = ("_norms", "_names", "_steps")
        return {key: value for key, value in self.__dict__.items() if key not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make it again."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._prepare()


def build_graph(plan: Graph) -> GraphNet:
    """Return the plain module of a graph, in training mode, with weights drawn at random.

    Matrices and filters are He-scaled normal, everything else is 0 or 1.
    """
    net = GraphNet(plan)
    draw_weights(net)
    return net


@torch.no_grad()
def check_graph(plan: Graph) -> Graph:
    """Return a graph that was read from a file; refuse one that is no network.

    It is run without values, which takes milliseconds and no memory.

    Raises:
        BlueprintError: Naming the first node that is wrong.
    """
    try:
        with torch.device("meta"):
            GraphNet(plan).eval().check()
    except _WRONG as error:  # of its tensors and norms
        raise BlueprintError(f"the graph is no network: {error}") from error
    return plan


@torch.no_grad()
def draw_weights(module: nn.Module) -> None:
    """Draw a module's tensors from PyTorch's current generator; norms are left alone."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            continue
        tensors = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        for name, tensor in tensors:
            if tensor.is_floating_point() and tensor.ndim > 1:
                tensor.normal_(std=(2 / max(1, tensor[0].numel())) ** 0.5)
            else:
                tensor.fill_(1 if name == "weight" else 0)


def add_tensors(module: nn.Module, weights: Sequence[WeightInfo]) -> None:
    """Add tensors to a module under dotted names; containers are made as they are needed.

    Raises:
        BlueprintError: If a name cannot be that of a tensor.
    """
    for weight in weights:
        dtype = getattr(torch, weight.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise BlueprintError(f"weight {weight.name} has the number format {weight.dtype!r}")
        home, name = _home(module, weight.name, make=True)
        tensor = torch.empty(weight.shape, dtype=dtype)
        if weight.kind == "parameter":
            home.register_parameter(
                name, nn.Parameter(tensor, requires_grad=dtype.is_floating_point)
            )
        else:
            home.register_buffer(name, tensor)


def add_norms(module: nn.Module, norms: Sequence[NormInfo], nodes: Sequence[Node]) -> None:
    """Add batch norms to a module under their dotted names."""
    ndims = {node.module: len(node.shape) for node in nodes if node.op == "batch_norm"}
    for norm in norms:
        home, name = _home(module, norm.name, make=True)
        home.add_module(
            name,
            _NORMS[ndims.get(norm.name, 4)](
                norm.channels, eps=norm.eps, momentum=norm.momentum, affine=norm.affine
            ),
        )


def _sizes(node: Node) -> tuple[int, ...]:
    """Return the shape of a node's result for the images of a check."""
    return tuple(s.times * _IMAGES if isinstance(s, Batch) else s for s in node.shape)


def _home(module: nn.Module, path: str, *, make: bool = False) -> tuple[nn.Module, str]:
    """Return the module that holds a tensor or module, and its name there."""
    *parts, name = path.split(".")
    for part in parts:
        children: Mapping[str, nn.Module | None] = module._modules
        child = children.get(part)
        if child is None:
            if not make:
                raise BlueprintError(f"there is no {path}")
            child = nn.Module()
            module.add_module(part, child)
        module = child
    return module, name
