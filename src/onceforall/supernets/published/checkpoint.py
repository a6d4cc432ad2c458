"""Weights under the published names: read from files, checked, and loaded whole or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor

from onceforall.errors import CheckpointError
from onceforall.files import reason_of
from onceforall.reading import named

_COUNTER = ".num_batches_tracked"
_WRAPPERS = ("state_dict", "model")


class PublishedNet(Protocol):
    """A network that knows the published spelling of its keys: Supernet or StaticNet."""

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors of the network, sharing memory with it."""

    def published_keys(self) -> dict[str, str]:
        """Return the published key of each key, in published order."""

    def published_spellings(self) -> dict[str, str]:
        """Return our key for every spelling that published files use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What :func:`load_published` did beside copying tensors.

    Attributes:
        identity_transforms: Number of kernel transforms set to the identity because the
            checkpoint, of full kernels only, has none.
        fresh_head: Whether the network kept its own classifier.
    """

    identity_transforms: int = 0
    fresh_head: bool = False


def published_state_dict(net: PublishedNet) -> dict[str, Tensor]:
    """Return the tensors of a network under their published keys, in published order.

    The tensors share memory with the network, as those of ``state_dict()`` do.
    """
    state = net.state_dict()
    return {published: state[ours] for ours, published in net.published_keys().items()}


@torch.no_grad()
def load_published(
    net: PublishedNet, state: Mapping[str, Tensor], *, reinit_head: bool = False
) -> LoadReport:
    """Load a state dict in any spelling; every key must be there and fit, or nothing is loaded.

    Keys may have the published spelling of supernets or of static nets, that of files from before
    November 2020, a ``module.`` prefix, or our own names. A static net of the largest subnet's
    shape loads into the supernet: it becomes the largest subnet.

    Two things may be absent. A checkpoint without a single kernel transform comes from full
    kernels: the network's transforms become the identity, and the report says so. A checkpoint
    without a single batch counter (``num_batches_tracked``, which no computation here reads) sets
    those to 0.

    Args:
        net: Network to change in place.
        state: Tensors by key.
        reinit_head: Leave the classifier out, whatever the checkpoint has: the network keeps the
            one it was initialised with. For another number of classes.

    Raises:
        CheckpointError: If keys are missing, unexpected, given twice, or of another shape. All
            are listed, and the network is as it was.
    """
    targets: dict[str, Tensor] = net.state_dict()
    found, problems = _match(net, state)
    head = {key for key in targets if net.published_keys()[key].startswith("classifier.")}
    if reinit_head:
        found = {key: tensor for key, tensor in found.items() if key not in head}
    absent = _absent_by_rule(targets, found)
    optional = absent | (head if reinit_head else set())
    missing = [net.published_keys()[k] for k in targets if k not in found and k not in optional]
    shapes = [
        f"{net.published_keys()[key]} {tuple(tensor.shape)} where the network has "
        f"{tuple(targets[key].shape)}"
        for key, tensor in found.items()
        if tensor.shape != targets[key].shape
    ]
    if missing:
        problems.append(f"missing {', '.join(missing)}")
    if shapes:
        problems.append(f"wrong shape: {', '.join(shapes)}")
    if problems:
        hint = _classes_hint(targets, found, head)
        raise CheckpointError("checkpoint does not fit: " + "; ".join([*hint, *problems]))
    for key, tensor in found.items():
        targets[key].copy_(tensor)
    for key in absent:
        targets[key].copy_(torch.eye(len(targets[key])) if targets[key].ndim else torch.tensor(0))
    transforms = sum(not key.endswith(_COUNTER) for key in absent)
    return LoadReport(identity_transforms=transforms, fresh_head=reinit_head)


def _match(net: PublishedNet, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by our key, and what is wrong with the others."""
    spellings = net.published_spellings()
    found: dict[str, Tensor] = {}
    unexpected, twice = [], []
    for key, tensor in state.items():
        ours = spellings.get(key.removeprefix("module."))
        if ours is None:
            unexpected.append(key)
        elif ours in found:
            twice.append(key)
        else:
            found[ours] = tensor
    problems = [f"unexpected {', '.join(unexpected)}"] if unexpected else []
    problems += [f"given twice: {', '.join(twice)}"] if twice else []
    return found, problems


def _absent_by_rule(targets: Iterable[str], found: Mapping[str, Tensor]) -> set[str]:
    """Return the kernel transforms and batch counters, where a checkpoint has none at all."""
    kinds = [
        {key for key in targets if ".transforms." in key},
        {key for key in targets if key.endswith(_COUNTER)},
    ]
    return {key for keys in kinds if not keys & set(found) for key in keys}


def _classes_hint(
    targets: Mapping[str, Tensor], found: Mapping[str, Tensor], head: Iterable[str]
) -> list[str]:
    """Say so in words where the number of classes differs."""
    for key in head:
        if key in found and len(found[key]) != len(targets[key]):
            return [
                f"it has {len(found[key])} classes where the network has {len(targets[key])}; "
                f"reinit_head=True (--reinit-head) keeps the network's own classifier"
            ]
    return []


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Read a state dict from a file, on the CPU; nothing in the file is ever executed.

    Args:
        path: A ``.safetensors`` file, or a file of ``torch.save`` with the state dict itself or
            one under ``"state_dict"`` or ``"model"``.

    Raises:
        CheckpointError: If the file is missing, damaged, or holds anything but tensors by name.
    """
    path = Path(path)
    try:
        place = named(path)
    except OSError as error:
        raise CheckpointError(f"no weights file at {path}: {reason_of(error)}") from error
    if place.suffix == ".safetensors" or path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(place, device="cpu")
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how old or odd the file is
            value = torch.load(place, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged archive makes of the reader
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} is not a readable weights file: {first_line}") from error
    for name in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(name), Mapping):
            value = value[name]
    if not isinstance(value, Mapping) or not all(map(_is_plain, value.values())):
        raise CheckpointError(f"{path} does not hold tensors by name")
    return {str(key): tensor for key, tensor in value.items()}


def _is_plain(value: object) -> bool:
    """Say whether a value is a tensor of numbers in memory, as large as its file."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
        and value.numel() * value.element_size() <= max(1, value.untyped_storage().nbytes())
    )
