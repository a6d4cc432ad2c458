"""What a tracer has written down so far: nodes, constants, and what lies in whose memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from onceforall.errors import BlueprintError
from onceforall.graph import Batch, Computed, DType, Node, NormInfo, Ref, Weight
from onceforall.supernets.graphs.exported import module_of
from onceforall.supernets.graphs.operators import run_constant


@dataclass(slots=True)
class Value:
    """What a node of the exported graph stands for.

    Attributes:
        ref: How others refer to it.
        base: Number of the memory that it lies in, which views share.
    """

    ref: Any
    base: int


@dataclass(slots=True, kw_only=True)
class Record:
    """Nodes and constants so far.

    Attributes:
        prime: Images of the batch while it is traced: literals that are multiples of it count them.
        values: What every node walked so far stands for; a list where it gives several tensors.
        folded: The tensor of each computed constant.
        trained: Memory that holds parameters, or what was made of them.
        owned: Name of the network's own tensor in a memory.
        homes: Memory of each such tensor.
        members: Nodes that stand for something in a memory.
        read_by: Memory of constants that an operation on images has read, and which.
        bases: Memories so far.
    """

    prime: int
    nodes: list[Node] = field(default_factory=list)
    computed: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, NormInfo] = field(default_factory=dict)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    folded: list[Tensor] = field(default_factory=list)
    trained: set[int] = field(default_factory=set)
    owned: dict[int, str] = field(default_factory=dict)
    homes: dict[str, int] = field(default_factory=dict)
    members: dict[int, list[tuple[fx.Node, Value]]] = field(default_factory=dict)
    read_by: dict[int, str] = field(default_factory=dict)
    bases: int = 0

    def stand(self, node: fx.Node, value: Value | list[Value]) -> None:
        """Note what a node stands for."""
        self.values[node] = value
        if isinstance(value, Value):
            self.members.setdefault(value.base, []).append((node, value))

    def new_base(self) -> int:
        """Return the number of a new memory."""
        self.bases += 1
        return self.bases

    def own(self, node: fx.Node, name: str, tensor: Tensor) -> None:
        """Let a placeholder stand for a tensor of the network."""
        self.tensors.setdefault(name, tensor)
        base = self.homes.setdefault(name, self.bases + 1)
        self.bases = max(self.bases, base)
        self.owned[base] = name
        if isinstance(tensor, nn.Parameter):
            self.trained.add(base)
        self.stand(node, Value(Weight(name), base))

    def put(
        self,
        node: fx.Node,
        op: str,
        args: tuple[Any, ...],
        kwargs: tuple[tuple[str, Any], ...] = (),
        *,
        shape: tuple[int, ...],
        suffix: str = "",
        module: str | None = None,
    ) -> None:
        """Append a node."""
        self.nodes.append(
            Node(
                name=f"{node.name}{suffix}",
                op=op,
                args=args,
                kwargs=kwargs,
                shape=self.literal(shape),
                module=module_of(node) if module is None else module,
            )
        )

    def append(
        self,
        node: fx.Node,
        op: str,
        args: tuple[Any, ...],
        kwargs: tuple[tuple[str, Any], ...] = (),
        *,
        module: str | None = None,
        view_of: Any = None,
    ) -> None:
        """Append an operation, which lies in new memory or in that of what it views."""
        self.put(node, op, args, kwargs, shape=tuple(node.meta["val"].shape), module=module)
        base = self.new_base() if view_of is None else self.values[view_of].base
        self.stand(node, Value(Ref(len(self.nodes) - 1), base))

    def compute(
        self, node: fx.Node, op: str, args: tuple[Any, ...], kwargs: tuple[Any, ...], base: int
    ) -> None:
        """Append a constant and compute it."""
        constant = Node(name=node.name, op=op, args=args, kwargs=kwargs, module=module_of(node))
        with torch.no_grad():
            result = run_constant(constant, self.tensors, self.folded)
        self.folded.append(result)
        self.computed.append(replace(constant, shape=tuple(result.shape)))
        self.stand(node, Value(Computed(len(self.computed) - 1), base))

    def argument(
        self, value: Any, node: fx.Node, *, constant: bool = False, whole: bool = False
    ) -> Any:
        """Return an argument of a node.

        Args:
            value: What the exported graph has.
            node: The node it is of.
            constant: The node depends on no image; a batch counts 1.
            whole: A constant operand needs the batch in its shape.
        """
        if isinstance(value, fx.Node):
            seen = self.values[value]
            if constant or isinstance(seen.ref, Ref):
                return seen.ref
            self.read_by[seen.base] = node.name
            return self.operand(value, seen, whole=whole)
        if isinstance(value, list | tuple):
            return tuple(self.argument(v, node, constant=constant, whole=whole) for v in value)
        if isinstance(value, torch.dtype):
            return DType(str(value).removeprefix("torch."))
        if isinstance(value, torch.device | torch.layout | torch.memory_format):
            return None
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            raise BlueprintError(f"node {node.name}: a size depends on the values of images")
        literal = self.literal(value)
        return 1 if constant and isinstance(literal, Batch) else literal

    def literal(self, value: Any) -> Any:
        """Return literals with multiples of the traced batch marked."""
        if isinstance(value, tuple | list):
            return tuple(self.literal(item) for item in value)
        is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40
        return Batch(value // self.prime) if is_count and value % self.prime == 0 else value

    def operand(self, value: fx.Node, seen: Value, *, whole: bool) -> Any:
        """Fold a constant that nothing trained is part of; give it a batch where it needs one."""
        ref = seen.ref
        if isinstance(ref, Computed) and seen.base not in self.trained:
            name = f"constants.{value.name}"
            self.tensors[name] = self.folded[ref.index].detach().clone()
            ref = Weight(name)
        shape = tuple(value.meta["val"].shape)
        if whole and any(size and size % self.prime == 0 for size in shape):
            self.put(value, "expand", (ref, self.literal(shape)), shape=shape, suffix="_expanded")
            return Ref(len(self.nodes) - 1)
        return ref
