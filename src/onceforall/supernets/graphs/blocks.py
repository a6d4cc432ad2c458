"""Blocks of a traced network: which additions can be skipped, and how blocks form stages.

An addition is *skippable* if one operand, the shortcut, dominates the other: nothing reaches the
other but through it, and nothing else reads what lies between. Skipping replaces the sum by the
shortcut. Skippable additions of one module
are skipped together; consecutive modules of one parent form a stage, of which the first run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onceforall.graph import Node, Ref
from onceforall.supernets.graphs.operators import CONVOLUTIONS, SPATIAL

# What a block is made of; an addition around none of it is part of something else, e.g. of a norm.
_WORK = CONVOLUTIONS | SPATIAL | {
    "linear.default", "matmul.default", "bmm.default", "einsum.default",
    "scaled_dot_product_attention.default",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of a stage.

    Attributes:
        name: Dotted path of its module, or the name of its addition.
        skips: Pairs of an addition and its shortcut; empty if the block always runs.
        nodes: Its nodes.
        kernels: Depthwise convolutions of its whose kernel is elastic.
    """

    name: str
    skips: tuple[tuple[int, int], ...]
    nodes: frozenset[int]
    kernels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Skip:
    """A skippable addition."""

    total: int
    shortcut: int
    inside: frozenset[int]


def find_stages(nodes: Sequence[Node], kernels: Sequence[int]) -> list[list[Block]]:
    """Return the stages of a network: blocks that always run, then blocks that may be skipped.

    Args:
        nodes: Traced network.
        kernels: Nodes of depthwise convolutions whose kernel is elastic.
    """
    named: dict[str, list[_Skip]] = {}
    for skip in _innermost(_skippable(nodes)):
        paths = [nodes[i].module for i in (*skip.inside, skip.total)]
        path = block_path(paths)
        # A numbered module is a block; another may hold many of them one after the other.
        is_block = any(letter.isdigit() for letter in path.rpartition(".")[2])
        named.setdefault(path if is_block else nodes[skip.total].name, []).append(skip)
    names = _with_kernels(nodes, kernels, named)
    blocks: dict[str, Block] = {}
    for name in names:
        skips = named.get(name, [])
        inside = {i for i, node in enumerate(nodes) if _is_in(node.module, name)}
        inside |= {i for skip in skips for i in (*skip.inside, skip.total)}
        blocks[name] = Block(
            name=name,
            skips=tuple((skip.total, skip.shortcut) for skip in skips),
            nodes=frozenset(inside),
            kernels=tuple(i for i in kernels if i in inside),
        )
    ordered = sorted((b for b in blocks.values() if b.nodes), key=lambda b: min(b.nodes))
    return list(_split(nodes, ordered))


def _with_kernels(
    nodes: Sequence[Node], kernels: Sequence[int], named: dict[str, list[_Skip]]
) -> dict[str, None]:
    """Return the names of all blocks: skippable, just before one, or with elastic kernels."""
    names = dict.fromkeys(named)
    parents = {_parent(name) for name in named if "." in name}
    for index in kernels:
        path = nodes[index].module
        if any(_is_in(path, name) for name in named):
            continue
        above = [parent for parent in parents if _is_in(path, parent)]
        if above:
            parent = max(above, key=len)
            names.setdefault(f"{parent}.{path[len(parent) + 1 :].split('.')[0]}")
        else:
            names.setdefault(_to_number(_parent(path)) or nodes[index].name)
    for parent in parents:
        children: dict[str, None] = {}
        for node in nodes:
            if _is_in(node.module, parent) and node.module != parent:
                children.setdefault(f"{parent}.{node.module[len(parent) + 1 :].split('.')[0]}")
        order = list(children)
        for before, name in itertools.pairwise(order):
            if name in named:
                names.setdefault(before)
    return names


def _split(nodes: Sequence[Node], blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Yield stages: a new one where the parent or the shape changes, or a fixed block follows."""
    stage: list[Block] = []
    for block in blocks:
        if stage:
            last = stage[-1]
            fixed_again = bool(last.skips) and not block.skips
            elsewhere = "." not in block.name and bool(last.skips or block.skips)
            changed = _parent(last.name) != _parent(block.name) or bool(
                last.skips and block.skips and not _is_same_size(nodes, last, block)
            )
            nested = bool(last.nodes & block.nodes)
            if fixed_again or changed or nested or (elsewhere and not _follows(nodes, last, block)):
                yield stage
                stage = []
        stage.append(block)
    if stage:
        yield stage


def _is_same_size(nodes: Sequence[Node], last: Block, block: Block) -> bool:
    """Return whether a block gives what the one before gives, but for channels that it adds."""
    total, shortcut = block.skips[-1]
    given = nodes[last.skips[-1][0]].shape
    return given in (nodes[total].shape, nodes[_before_padding(nodes, shortcut)].shape)


def _follows(nodes: Sequence[Node], last: Block, block: Block) -> bool:
    """Return whether a block without a module of its own has the shape of the one before it."""
    if not last.skips or not block.skips:
        return False
    return nodes[last.skips[-1][0]].shape == nodes[block.skips[0][0]].shape


def _skippable(nodes: Sequence[Node]) -> list[_Skip]:
    above = _dominators(nodes)
    users: list[set[int]] = [set() for _ in nodes]
    for index, node in enumerate(nodes):
        for before in node.inputs:
            users[before].add(index)
    found: list[_Skip] = []
    for index, node in enumerate(nodes):
        if node.op != "add.Tensor" or node.kwargs or len(node.args) != 2:
            continue
        a, b = node.args
        if not isinstance(a, Ref) or not isinstance(b, Ref) or a == b:
            continue
        if nodes[a.index].shape != nodes[b.index].shape:
            continue
        for shortcut, other in ((a.index, b.index), (b.index, a.index)):
            top = _before_padding(nodes, shortcut)
            if top and _dominates(above, top, other):
                inside = _between(nodes, top, other)
                is_read_elsewhere = any(not users[i] <= inside | {index} for i in inside)
                if any(nodes[i].op in _WORK for i in inside) and not is_read_elsewhere:
                    found.append(_Skip(index, shortcut, frozenset(inside)))
                break
    return found


def _before_padding(nodes: Sequence[Node], shortcut: int) -> int:
    """Return what a shortcut that is padded with channels is made of."""
    node = nodes[shortcut]
    return node.inputs[0] if node.op == "pad.default" else shortcut


def _innermost(skips: Sequence[_Skip]) -> list[_Skip]:
    """Drop additions around others, unless the others are merely their start."""
    totals = {skip.total for skip in skips}
    return [skip for skip in skips if not skip.inside & totals]


def _dominators(nodes: Sequence[Node]) -> list[int]:
    """Return the immediate dominator of every node; the first dominates itself."""
    depth, above = [0] * len(nodes), [0] * len(nodes)
    for index, node in enumerate(nodes):
        before = node.inputs
        if not before:
            continue
        common = before[0]
        for other in before[1:]:
            while common != other:
                if depth[common] >= depth[other]:
                    common = above[common]
                else:
                    other = above[other]
        above[index], depth[index] = common, depth[common] + 1
    return above


def _dominates(above: Sequence[int], top: int, node: int) -> bool:
    while node > top:
        node = above[node]
    return node == top


def _between(nodes: Sequence[Node], top: int, bottom: int) -> set[int]:
    """Return the nodes on ways from ``top``, exclusive, to ``bottom``, inclusive."""
    seen, left = set(), [bottom]
    while left:
        index = left.pop()
        if index in seen or index <= top:
            continue
        seen.add(index)
        left += nodes[index].inputs
    return seen


def block_path(paths: Sequence[str]) -> str:
    """Return the module that all of some paths are in, up to its last number."""
    return _to_number(common_path(paths))


def common_path(paths: Sequence[str]) -> str:
    """Return the dotted path that some paths begin with."""
    columns = zip(*(path.split(".") for path in paths), strict=False)
    same = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    return ".".join(column[0] for column in same)


def _to_number(path: str) -> str:
    """Return a path up to its last numeric part; all of it where there is none."""
    parts = path.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1] + 1]) if numbers else path


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _is_in(path: str, parent: str) -> bool:
    return path == parent or path.startswith(f"{parent}.")
