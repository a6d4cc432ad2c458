"""A network as ``torch.export`` gives it, and what is read of its nodes."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from onceforall.errors import BlueprintError

_PRIMES = (211, 223, 227, 229, 233, 239, 241, 251, 257, 263, 269, 271, 277, 281, 283, 293, 307)


def free_prime(model: nn.Module, example: Tensor) -> int:
    """Return a batch size that divides no size of the network."""
    sizes = {*example.shape[1:]}
    for tensor in (*model.parameters(), *model.buffers()):
        sizes.update(tensor.shape)
    for prime in _PRIMES:
        if not any(size and size % prime == 0 for size in sizes):
            return prime
    raise BlueprintError("no batch size is free to trace this network with")


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a network in eval mode, without the fused attention that training does not have."""
    modes = [(part, part.training) for part in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for part, training in modes:
            part.training = training


def exported_program(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """Return what ``torch.export`` makes of a network; it is not strict about Python."""
    log = logging.getLogger("torch")
    level = log.level
    try:
        log.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), _without_collection():
            warnings.simplefilter("ignore")
            return torch.export.export(model, (images,), strict=False)
    except Exception as error:  # the exporter raises whatever the network's own code does
        first = " ".join(str(error).split("\n\n")[0].split())[:300]
        raise BlueprintError(
            f"{type(model).__name__} cannot be traced: {type(error).__name__}: {first}"
        ) from error
    finally:
        log.setLevel(level)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Put off garbage collection, which takes a fifth of the exporter's time and finds little."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return every tensor of a network under all of its names."""
    return [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]


def convolution_arguments(
    args: tuple[Any, ...], named: dict[str, Any], dims: int
) -> tuple[Any, ...]:
    """Return all arguments of a convolution: x, weight, bias, stride, padding, dilation, groups."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    default = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    found = {**default, **dict(zip(names, args, strict=False)), **named}
    for name in ("stride", "padding", "dilation"):
        if not isinstance(found[name], tuple | str):
            found[name] = (found[name],)
        if len(found[name]) == 1:
            found[name] = found[name] * dims
    return tuple(found[name] for name in names)


def is_module(value: Any) -> bool:
    """Return whether an argument is a part of the exported graph's module."""
    return isinstance(value, fx.Node) and value.op == "get_attr"


def module_of(node: fx.Node) -> str:
    """Return the dotted path of the module that a node was traced in."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""
