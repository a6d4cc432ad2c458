"""From a module to a program: nodes without side effects, and what is made of weights alone.

``torch.export`` (non-strict, in eval mode) gives ATen operators. They are normalised here: an
operator that works in place becomes its functional twin, the many spellings of a reshape become
one, and whatever depends on no image is computed apart. The batch has a prime size while it is
traced, so every literal that is a multiple of it counts images.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from onceforall.errors import BlueprintError
from onceforall.graph import Batch, DType, Node, NormInfo, Ref, Weight
from onceforall.supernets.graphs.exported import (
    convolution_arguments,
    exported_program,
    free_prime,
    in_eval_mode,
    is_module,
    named_tensors,
)
from onceforall.supernets.graphs.operators import (
    CONVOLUTIONS,
    CREATORS,
    NORMALISED,
    SAME,
    creator_value,
    functional_name,
    is_in_place,
    is_view,
    overload_of,
)
from onceforall.supernets.graphs.record import Record, Value
from onceforall.supernets.graphs.rewrite import with_padded_shortcuts
from onceforall.supernets.graphs.shapes import normalised


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A traced network.

    Attributes:
        nodes: Operations on images, in order; node 0 is the batch.
        computed: Operations on weights alone, in order, some of them in place.
        output: Index of the node that gives the logits.
        tensors: Every tensor that is used, by key: parameters, buffers, folded constants.
        norms: Batch norms by path.
        side: Side of the image, in pixels.
    """

    nodes: tuple[Node, ...]
    computed: tuple[Node, ...]
    output: int
    tensors: Mapping[str, Tensor]
    norms: Mapping[str, NormInfo]
    side: int


def trace(model: nn.Module, example_input: Tensor) -> Program:
    """Return the program of a network; the network is as it was afterwards.

    Args:
        model: Any module that maps images ``(B, 3, H, W)`` to logits ``(B, K)``.
        example_input: A batch of images; its sides and number format count, its values do not.

    Raises:
        BlueprintError: Naming the operation that cannot be traced, and why.
    """
    if example_input.ndim != 4 or example_input.shape[2] != example_input.shape[3]:
        raise BlueprintError(
            f"example_input has shape {tuple(example_input.shape)}, not (B, C, side, side)"
        )
    prime = free_prime(model, example_input)
    shape = (prime, *example_input.shape[1:])
    images = torch.empty(shape, dtype=example_input.dtype, device=example_input.device)
    with in_eval_mode(model):
        exported = exported_program(model, images)
        return _Tracer(model, exported, example_input.shape[-1], Record(prime=prime)).program()


@dataclass(slots=True)
class _Tracer:
    """Walks an exported graph once.

    Attributes:
        record: What is written down.
        done: Nodes walked so far.
    """

    model: nn.Module
    exported: torch.export.ExportedProgram
    side: int
    record: Record
    done: set[fx.Node] = field(default_factory=set)

    def program(self) -> Program:
        """Return the program."""
        self._inputs()
        output: Any = None
        for node in self._flat(self.exported.graph):
            if node.op == "output":
                output = node.args[0]
            else:
                self._operation(node)
            self.done.add(node)
        nodes, logits = with_padded_shortcuts(self.record.nodes, self._output(output))
        return Program(
            nodes=tuple(nodes),
            computed=tuple(self.record.computed),
            output=logits,
            tensors=self.record.tensors,
            norms=self.record.norms,
            side=self.side,
        )

    def _inputs(self) -> None:
        signature = self.exported.graph_signature
        state = {**self.exported.state_dict, **self.exported.constants}
        names = {id(tensor): name for name, tensor in reversed(named_tensors(self.model))}
        sources = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        if signature.buffers_to_mutate:
            name = next(iter(signature.buffers_to_mutate.values()))
            raise BlueprintError(f"buffer {name} is written to in eval mode")
        for node in self.exported.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in sources:
                tensor = state[sources[node.name]]
                self.record.own(node, names.get(id(tensor), sources[node.name]), tensor)
            elif self.record.nodes:
                raise BlueprintError(f"input {node.name}: a network has one input, this has more")
            else:
                self.record.append(node, "input", ())
            self.done.add(node)

    def _output(self, output: Any) -> int:
        while isinstance(output, list | tuple) and len(output) == 1:
            output = output[0]
        if isinstance(output, list | tuple):
            raise BlueprintError(f"a network has one output, this one has {len(output)}")
        ref = self.record.values[output].ref if isinstance(output, fx.Node) else None
        if not isinstance(ref, Ref):
            raise BlueprintError("the output does not depend on the images")
        shape = output.meta["val"].shape
        if len(shape) != 2 or shape[0] != self.record.prime:
            raise BlueprintError(
                f"node {output.name}: the output has shape {tuple(shape)[1:]} for one image; "
                "logits (K,) are needed"
            )
        return ref.index

    def _flat(self, graph: fx.Graph) -> Iterator[fx.Node]:
        """Yield the operations in order, those of regions without autocast in their place."""
        for node in graph.nodes:
            if node.op == "get_attr":
                self._attribute(node)
            elif node.op == "call_function" and str(node.target) == "wrap_with_autocast":
                yield from self._region(node)
            elif node.op != "placeholder":
                yield node

    def _region(self, node: fx.Node) -> Iterator[fx.Node]:
        """Yield the operations of a region with autocast settings of its own."""
        place = next(i for i, arg in enumerate(node.args) if is_module(arg))
        module = getattr(self.exported.graph_module, str(node.args[place].target))  # type: ignore[union-attr]
        inputs = [each for each in module.graph.nodes if each.op == "placeholder"]
        for inner, given in zip(inputs, node.args[place + 1 :], strict=True):
            self.record.stand(inner, self.record.values[given])  # type: ignore[index]
        for each in self._flat(module.graph):
            if each.op != "output":
                yield each
                continue
            results = each.args[0]
            if isinstance(results, list | tuple):
                self.record.stand(node, [self.record.values[result] for result in results])  # type: ignore[index]
            else:
                self.record.stand(node, self.record.values[results])  # type: ignore[index]

    def _attribute(self, node: fx.Node) -> None:
        found: Any = self.exported.graph_module
        for part in str(node.target).split("."):
            found = getattr(found, part, None)
        if isinstance(found, Tensor):
            self.record.own(node, f"constants.{node.name}", found)

    def _operation(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            source, index = node.args
            self.record.stand(node, self.record.values[source][index])  # type: ignore[index]
            return
        name = overload_of(node.target)
        if name is None:
            raise BlueprintError(
                f"node {node.name}: {node.target} is not an operator of PyTorch's core"
            )
        if name.startswith("_assert") or node.meta.get("val") is None:
            return
        if name == "to.device":  # a network runs on one device; the number format is what counts
            node.args, name = (node.args[0], node.args[2]), "to.dtype"
        if name in SAME:
            self.record.stand(node, self.record.values[node.args[0]])  # type: ignore[index]
            return
        sources = [self.record.values[each] for each in node.all_input_nodes]
        if any(isinstance(source, list) for source in sources):
            raise BlueprintError(f"node {node.name}: {name} reads a list of tensors")
        if name in CREATORS:
            self._created(node, name)
        elif not any(isinstance(source.ref, Ref) for source in sources):
            self._constant(node, name)
        elif name in NORMALISED:
            self._normalised(node, name)
        elif is_in_place(name):
            self._in_place(node, name)
        else:
            self._on_images(node, name)

    def _on_images(self, node: fx.Node, name: str) -> None:
        if name == "batch_norm.default":
            self._batch_norm(node)
            return
        if isinstance(node.meta["val"], list | tuple):
            raise BlueprintError(f"node {node.name}: {name} gives several tensors")
        args = tuple(self.record.argument(arg, node) for arg in node.args)
        kwargs = tuple(
            (key, self.record.argument(value, node)) for key, value in node.kwargs.items()
        )
        if name in ("contiguous.default", "clone.default"):
            args, kwargs = args[:1], ()
        elif name == "scaled_dot_product_attention.default":
            # Said outright: where a subnet's heads have fewer channels it stays the same.
            scale = float(node.args[0].meta["val"].shape[-1]) ** -0.5  # type: ignore[union-attr]
            named = dict(kwargs)
            kwargs = tuple((named | {"scale": named.get("scale") or scale}).items())
        elif name in CONVOLUTIONS:
            dims = len(node.meta["val"].shape) - 2
            args, kwargs = convolution_arguments(args, dict(kwargs), dims), ()
        self.record.append(
            node, name, args, kwargs, view_of=node.args[0] if is_view(name) else None
        )

    def _normalised(self, node: fx.Node, name: str) -> None:
        """Append the nodes that stand for one spelling of a shape operation."""
        results = node.meta["val"]
        many = isinstance(results, list | tuple)
        source: Any = node.args[0]
        parts = list(source) if isinstance(source, list | tuple) else [source]
        shapes = [tuple(part.meta["val"].shape) for part in parts]
        made: list[Value] = []
        for i, result in enumerate(results if many else [results]):
            refs = [self.record.argument(part, node, whole=len(parts) > 1) for part in parts]
            if name == "stack.default":
                refs = [
                    self._stacked(node, part, ref) for part, ref in zip(parts, refs, strict=True)
                ]
            current: Any = tuple(refs) if isinstance(source, list | tuple) else refs[0]
            suffix = f"_{i}" if many else ""
            for op, args, shape in normalised(name, node, shapes, tuple(result.shape), i):
                self.record.put(
                    node, op, (current, *self.record.literal(args)), shape=shape, suffix=suffix
                )
                current = Ref(len(self.record.nodes) - 1)
            base = self.record.values[parts[0]].base if is_view(name) else self.record.new_base()
            made.append(Value(current, base))
        self.record.stand(node, made if many else made[0])

    def _stacked(self, node: fx.Node, part: fx.Node, ref: Any) -> Ref:
        """Append a reshape that gives an operand of a stack its new dimension."""
        shape = list(part.meta["val"].shape)
        dim = int(node.args[1] if len(node.args) > 1 else 0)  # type: ignore[arg-type]
        shape.insert(dim % (len(shape) + 1), 1)
        self.record.put(
            node,
            "reshape",
            (ref, self.record.literal(shape)),
            shape=tuple(shape),
            suffix=f"_{part.name}",
        )
        return Ref(len(self.record.nodes) - 1)

    def _batch_norm(self, node: fx.Node) -> None:
        x, *tensors = node.args[:5]
        found = [None if t is None else self.record.values[t].ref for t in tensors]  # type: ignore[index]
        names = [ref.name if isinstance(ref, Weight) else None for ref in found]
        prefix = (names[2] or "").rpartition(".")[0]
        own = [f"{prefix}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        if names != own and (found[:2] != [None, None] or names[2:] != own[2:]):
            raise BlueprintError(
                f"node {node.name}: a batch norm whose tensors are not weight, bias, running_mean "
                "and running_var of one module"
            )
        self.record.norms[prefix] = NormInfo(
            name=prefix,
            channels=self.record.tensors[own[2]].shape[0],
            eps=float(node.args[7]),  # type: ignore[arg-type]
            momentum=float(node.args[6] or 0.0),  # type: ignore[arg-type]
            affine=names[0] is not None,
        )
        self.record.append(node, "batch_norm", (self.record.argument(x, node),), module=prefix)

    def _created(self, node: fx.Node, name: str) -> None:
        """Compute a tensor that takes no more than its shape from another."""
        result = node.meta["val"]
        shape = tuple(self.record.literal(tuple(result.shape)))
        sizes = tuple(1 if isinstance(size, Batch) else size for size in shape)
        if any(isinstance(size, Batch) and size.times != 1 for size in shape):
            raise BlueprintError(f"node {node.name}: {name} mixes images with something else")
        value = creator_value(name, node.args)
        dtype = DType(str(result.dtype).removeprefix("torch."))
        self.record.compute(
            node, "full.default", (sizes, value), (("dtype", dtype),), self.record.new_base()
        )

    def _constant(self, node: fx.Node, name: str) -> None:
        """Compute what is made of the network's tensors alone."""
        args = tuple(self.record.argument(arg, node, constant=True) for arg in node.args)
        kwargs = tuple(
            (key, self.record.argument(value, node, constant=True))
            for key, value in node.kwargs.items()
        )
        if isinstance(node.meta["val"], list | tuple):
            raise BlueprintError(f"node {node.name}: {name} of weights gives several tensors")
        sources = [self.record.values[each] for each in node.all_input_nodes]
        in_place = is_in_place(name)
        base = (
            sources[0].base if sources and (in_place or is_view(name)) else self.record.new_base()
        )
        if in_place and base in self.record.owned:
            raise BlueprintError(
                f"node {node.name} writes to {self.record.owned[base]} in eval mode"
            )
        if in_place and base in self.record.read_by:
            raise BlueprintError(
                f"node {node.name} overwrites a constant that {self.record.read_by[base]} has read"
            )
        if any(source.base in self.record.trained for source in sources):
            self.record.trained.add(base)
        self.record.compute(node, name, args, kwargs, base)
        if in_place:
            self.record.stand(node, Value(sources[0].ref, base))

    def _in_place(self, node: fx.Node, name: str) -> None:
        """Append the functional twin, and let later readers of the target read its result."""
        target: fx.Node = node.args[0]  # type: ignore[assignment]
        value = self.record.values[target]
        if not isinstance(value.ref, Ref):
            raise BlueprintError(f"node {node.name} writes images into a constant")
        for other, seen in self.record.members[value.base]:
            if seen.ref == value.ref:
                continue
            if any(user is not node and user not in self.done for user in other.users):
                raise BlueprintError(
                    f"node {node.name} overwrites {target.name}, whose memory {other.name} shares "
                    "and which is read afterwards"
                )
        old = value.ref
        twin = functional_name(name)
        if twin is None:
            raise BlueprintError(f"node {node.name}: {name} has no twin that is not in place")
        self._on_images(node, twin)
        made = Value(self.record.values[node].ref, value.base)
        for _, seen in self.record.members[value.base]:
            if seen.ref == old:
                seen.ref = made.ref
        self.record.stand(node, made)
