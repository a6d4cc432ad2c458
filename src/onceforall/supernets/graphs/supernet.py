"""The weights of a network that was made elastic, and how a subnet of them runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onceforall.arch import Arch
from onceforall.graph import Computed, Graph, Weight, WeightInfo
from onceforall.ops.functional import center_crop
from onceforall.space import SearchSpace
from onceforall.supernets.graphs.cutting import (
    Index,
    Indices,
    add_scores,
    cut_out,
    laid_out_as,
    put,
    taken,
)
from onceforall.supernets.graphs.network import GraphNet, add_norms, add_tensors
from onceforall.supernets.graphs.operators import run_constant
from onceforall.supernets.graphs.parts import WeightCut
from onceforall.supernets.graphs.run import Step, run_steps, steps_of
from onceforall.supernets.graphs.spec import (
    GraphSpec,
    Subnet,
    constant_name,
    kernel_side,
    subnet_of,
)

# Prepared subnets that are kept.
_MOST_PLANS = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """A subnet, ready to run.

    Attributes:
        subnet: What runs.
        steps: Its calls.
        cuts: How each tensor that it reads is cut, and its kernel side.
        norms: How the channels of each norm are cut.
        computed: Whether it reads what is computed of weights.
    """

    subnet: Subnet
    steps: Sequence[Step]
    cuts: Sequence[tuple[WeightCut, tuple[tuple[int, Index], ...], int]]
    norms: Mapping[str, Index]
    computed: bool


class _Plans(dict[Any, _Plan]):
    """Prepared subnets; a copy of the network prepares its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Plans:
        return _Plans()

    def __reduce__(self) -> tuple[type[_Plans], tuple[()]]:
        return _Plans, ()


@final
class GraphSupernet(nn.Module):
    """An elastic network made of a traced one.

    Args:
        spec: The network as data. Weights are uninitialised: :func:`elasticize` copies them.

    Attributes:
        spec: The network as data.
        space: Its search space.
        model: Its tensors, under their original keys.
        transforms: Matrices from the centre of a kernel to the next smaller one.
        order: Units of each group, most important first, one group after the other: a subnet
            keeps the first ones, in their original order.
    """

    order: Tensor

    def __init__(self, spec: GraphSpec) -> None:
        super().__init__()
        self.spec = spec
        self.space: SearchSpace = spec.space
        self.model = nn.Module()
        add_tensors(self.model, stored_weights(spec))
        add_norms(self.model, [norm for norm, _ in spec.norms], spec.nodes[-1])
        self.transforms = nn.ParameterDict()
        for cut in spec.weights:
            for side in range(cut.kernel - 2, _smallest(spec, cut) - 1, -2):
                self.transforms[_transform_name(cut, side)] = nn.Parameter(torch.eye(side**2))
        units = [torch.arange(group.units) for group in spec.groups]
        self.register_buffer("order", torch.cat(units) if units else torch.zeros(0).long())
        self._norms = {norm.name: self.model.get_submodule(norm.name) for norm, _ in spec.norms}
        self._plans = _Plans()

    def forward(self, images: Tensor, arch: Arch) -> Tensor:
        """Run the subnet ``arch``.

        Args:
            images: Normalised images ``(B, 3, H, W)``, of side ``arch.resolution``.
            arch: Any arch of the space.

        Returns:
            Logits ``(B, num_classes)``.

        Raises:
            ArchError: If ``arch`` is not in the space.
        """
        plan = self._plan(arch)
        counters: list[Any] = [
            norm._buffers["num_batches_tracked"]
            for name in plan.norms
            if (norm := self._norms[name]).training
        ]
        if counters:
            torch._foreach_add_(counters, 1)
        tensors = self._tensors(plan)
        return run_steps(plan.steps, len(self.spec.nodes[-1]), plan.subnet.output, images, tensors)

    def blueprint(self, arch: Arch) -> Graph:
        """Return the static network of ``arch`` as data."""
        return self.spec.blueprint(arch)

    @torch.no_grad()
    def extract(self, arch: Arch) -> GraphNet:
        """Return a plain copy of one subnet, in eval mode.

        Its outputs are bitwise equal to ``self(x, arch)`` in eval mode on a CPU, where no weight is
        frozen (else PyTorch may multiply in another order).

        Raises:
            ArchError: If ``arch`` is not in the space.
        """
        plan = self._plan(arch)
        with torch.device("meta"):
            plain = GraphNet(self.spec.blueprint(arch))
        plain = plain.to_empty(device=self.order.device)
        targets = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
        for key, value in self._tensors(plan).items():
            name = key.name if isinstance(key, Weight) else constant_name(key.index)
            targets[name].data = value.detach().clone(memory_format=torch.preserve_format)
        for name, index in plan.norms.items():
            for part, tensor in self._norms[name].state_dict().items():
                value = tensor.clone() if part == "num_batches_tracked" else taken(tensor, 0, index)
                if part == "num_batches_tracked":
                    value.zero_()
                targets[f"{name}.{part}"].data = value.detach().clone()
        return plain.eval()

    @torch.no_grad()
    def set_statistics(self, arch: Arch, plain: GraphNet) -> None:
        """Copy the batch-norm statistics of one subnet's plain twin to the channels that it runs.

        Args:
            arch: The subnet.
            plain: What :meth:`extract` gave for it, with statistics of its own.
        """
        for name, index in self._plan(arch).norms.items():
            norm, twin = self._norms[name], plain.get_submodule(name)
            for part in ("running_mean", "running_var"):
                put(getattr(norm, part), index, getattr(twin, part))

    @torch.no_grad()
    def sort_channels(self, *, num_opened: int = 0) -> None:
        """Order every group's units by importance; the largest subnet is unchanged.

        Importance is the L1 norm of all weights that read or make a unit, each tensor's share of
        its own sum, so that large tensors do not drown small ones.

        Args:
            num_opened: How many smaller widths have been trained already; then the order stays.
        """
        if num_opened:
            return
        scores = [torch.zeros(group.units, dtype=torch.float64) for group in self.spec.groups]
        tensors = self._stored()
        for cut in self.spec.weights:
            value = tensors[cut.source].detach().double().abs().cpu()
            if value.ndim < 2:
                continue
            for dim, pattern in cut.cuts:
                others = [d for d in range(value.ndim) if d != dim]
                add_scores(scores, value.sum(dim=others), pattern)
        orders = [torch.argsort(score, descending=True, stable=True) for score in scores]
        if orders:
            self.order.copy_(torch.cat(orders))

    # -- preparing ------------------------------------------------------------------------------

    def _apply(self, fn: Any, recurse: bool = True) -> GraphSupernet:
        self._plans.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def _plan(self, arch: Arch) -> _Plan:
        key = (arch, self.order._version)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._prepared(arch)
            while len(self._plans) >= _MOST_PLANS:
                self._plans.pop(next(iter(self._plans)), None)
            self._plans[key] = plan
        return plan

    def _prepared(self, arch: Arch) -> _Plan:
        subnet = subnet_of(self.spec, arch)
        read = {
            part
            for _, node in subnet.steps
            for part in node.parts()
            if isinstance(part, Weight | Computed)
        }
        indices = Indices(subnet.kept, self.spec, self.order)
        norms = {node.module for _, node in subnet.steps if node.op == "batch_norm"}
        found: dict[str, Index] = {
            norm.name: indices.of(pattern)
            for norm, pattern in self.spec.norms
            if norm.name in norms
        }
        return _Plan(
            subnet=subnet,
            steps=steps_of(
                subnet.steps,
                subnet.output,
                normalise=lambda name, x: self._normalised(name, found[name], x),
                module=self,
            ),
            cuts=[
                (
                    cut,
                    tuple(
                        (dim, index)
                        for dim, pattern in cut.cuts
                        if (index := indices.of(pattern)) is not None
                    ),
                    kernel_side(cut, subnet),
                )
                for cut in self.spec.weights
                if cut.source in read
            ],
            norms=found,
            computed=any(isinstance(part, Computed) for part in read),
        )

    def _stored(self) -> dict[Weight | Computed, Tensor]:
        """Return whole tensors by reference, computed ones too."""
        names = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        result: dict[Weight | Computed, Tensor] = {Weight(k): v for k, v in names.items()}
        computed: list[Tensor] = []
        for index, node in enumerate(self.spec.computed):
            computed.append(run_constant(node, names, computed))
            result[Computed(index)] = computed[-1]
        return result

    def _tensors(self, plan: _Plan) -> dict[Any, Tensor]:
        """Return the tensors that a subnet reads."""
        stored = self._stored() if plan.computed else self._whole
        result: dict[Any, Tensor] = {}
        for cut, dims, side in plan.cuts:
            tensor = stored[cut.source]
            if not dims and not (side and side != cut.kernel):
                result[cut.source] = tensor
                continue
            value = cut_out(tensor, dims)
            if side and side != cut.kernel:
                value = laid_out_as(self._transformed(cut, value, side), tensor)
            # How PyTorch multiplies depends on this flag, without gradients too: an extracted
            # network has parameters here.
            if tensor.requires_grad and not value.requires_grad:
                value.requires_grad_()
            result[cut.source] = value
        return result

    @property
    def _whole(self) -> Mapping[Any, Tensor]:
        """Return the tensors by reference; quick to look up."""
        return _Lookup(self.model)

    def _transformed(self, cut: WeightCut, weight: Tensor, side: int) -> Tensor:
        """Return the filters ``(C, 1, side, side)`` of a smaller kernel."""
        enabled = torch.is_autocast_enabled(weight.device.type)
        with torch.autocast(weight.device.type, enabled=False) if enabled else nullcontext():
            for smaller in range(cut.kernel - 2, side - 1, -2):
                flat = center_crop(weight, smaller).flatten(start_dim=1)
                matrix = self.transforms[_transform_name(cut, smaller)]
                weight = F.linear(flat, matrix).view(-1, 1, smaller, smaller)
        return weight

    def _normalised(self, name: str, index: Index, x: Tensor) -> Tensor:
        """Run a batch norm on the channels of a subnet."""
        norm: Any = self._norms[name]
        buffers, parameters = norm._buffers, norm._parameters
        mean, var = buffers["running_mean"], buffers["running_var"]
        weight, bias = parameters.get("weight"), parameters.get("bias")
        if index is None:
            return F.batch_norm(x, mean, var, weight, bias, norm.training, norm.momentum, norm.eps)
        own_mean, own_var = taken(mean, 0, index), taken(var, 0, index)
        weight = None if weight is None else taken(weight, 0, index)
        bias = None if bias is None else taken(bias, 0, index)
        y = F.batch_norm(x, own_mean, own_var, weight, bias, norm.training, norm.momentum, norm.eps)
        if norm.training and isinstance(index, Tensor):
            with torch.no_grad():
                mean.index_copy_(0, index, own_mean)
                var.index_copy_(0, index, own_var)
        return y


class _Lookup(Mapping[Any, Tensor]):
    """A module's tensors by reference."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __getitem__(self, key: Weight) -> Tensor:
        module: Any = self.module
        *parts, name = key.name.split(".")
        for part in parts:
            module = module._modules[part]
        found = module._parameters.get(name)
        tensor: Tensor = module._buffers[name] if found is None else found
        return tensor

    def __iter__(self) -> Iterator[Weight]:
        return (Weight(name) for name in self.module.state_dict())

    def __len__(self) -> int:
        return len(self.module.state_dict())


def _smallest(spec: GraphSpec, cut: WeightCut) -> int:
    """Return the smallest side on offer for an elastic kernel; more than its own if rigid."""
    sides = [
        block.kernel_sizes[0]
        for stage in spec.stages
        for block in stage
        for index in block.kernels
        if spec.nodes[-1][index].args[1] == cut.source
    ]
    return min(sides, default=cut.kernel)


def _transform_name(cut: WeightCut, side: int) -> str:
    assert isinstance(cut.source, Weight)
    return f"{cut.source.name.replace('.', '_')}_{side + 2}to{side}"


def stored_weights(spec: GraphSpec) -> list[WeightInfo]:
    """Return the tensors that a supernet of ``spec`` stores, without those of norms."""
    stored = {
        cut.source.name: WeightInfo(
            name=cut.source.name, shape=cut.shape, kind=cut.kind, dtype=cut.dtype
        )
        for cut in spec.weights
        if isinstance(cut.source, Weight)
    }
    for info in spec.sources:
        stored.setdefault(info.name, info)
    return list(stored.values())
