"""Supernets and plain networks on disk: safetensors beside JSON, nothing pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from onceforall.blueprint import LAYER_TYPES, Blueprint
from onceforall.errors import CheckpointError, ConfigError
from onceforall.files import read_json, write_bytes, write_json
from onceforall.records import record_from_json, record_to_json
from onceforall.supernets.spec import (
    FixedBlock,
    MBConvSpec,
    MBConvStage,
    ResNetSpec,
    ResNetStage,
    StaticSpec,
    SupernetSpec,
)
from onceforall.supernets.static import StaticNet, build
from onceforall.supernets.supernet import Supernet

_SPEC_TYPES = (
    FixedBlock, MBConvSpec, MBConvStage, ResNetSpec, ResNetStage, StaticSpec, Blueprint,
    *LAYER_TYPES,
)  # fmt: skip


def spec_to_json(spec: SupernetSpec) -> dict[str, Any]:
    """Return a stage table as a JSON object."""
    return record_to_json(spec)  # type: ignore[no-any-return]


def spec_from_json(value: dict[str, Any]) -> SupernetSpec:
    """Return the stage table that :func:`spec_to_json` wrote.

    Raises:
        ConfigError: If it is not one.
    """
    spec = record_from_json(value, _SPEC_TYPES)
    if not isinstance(spec, SupernetSpec):
        raise ConfigError(f"record {type(spec).__name__} is not a stage table")
    return spec


def save_supernet(net: Supernet, path: Path, *, facts: dict[str, Any] | None = None) -> None:
    """Write ``path`` (safetensors) and the stage table beside it (``.json``), atomically.

    Args:
        net: Supernet to save.
        path: Ends in ``.safetensors``.
        facts: JSON facts to keep beside the stage table, e.g. class names and normalisation.
    """
    write_json(path.with_suffix(".json"), {"spec": spec_to_json(net.spec), **(facts or {})})
    write_bytes(path, _tensors_bytes(net))


def load_saved_supernet(path: Path) -> tuple[Supernet, dict[str, Any]]:
    """Return the supernet and the facts that :func:`save_supernet` wrote; in eval mode.

    Raises:
        CheckpointError: If a file is missing, damaged or does not fit the stage table.
    """
    sidecar = path.with_suffix(".json")
    if not path.is_file() or not sidecar.is_file():
        missing = path if not path.is_file() else sidecar
        raise CheckpointError(f"supernet file {missing} does not exist")
    facts = read_json(sidecar)
    net = Supernet(spec_from_json(facts.pop("spec")))
    load_tensors(net, path)
    return net.eval(), facts


def save_plain(module: nn.Module, path: Path) -> None:
    """Write the tensors of a plain network as safetensors, atomically."""
    write_bytes(path, _tensors_bytes(module))


def load_plain(plan: Blueprint, path: Path) -> StaticNet:
    """Return the plain network of ``plan`` with the tensors of ``path``, in eval mode.

    Raises:
        CheckpointError: If the file is missing, damaged or does not fit.
    """
    module = build(plan)
    load_tensors(module, path)
    return module.eval()


def load_tensors(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into ``module``; every key must be there, with its shape.

    Raises:
        CheckpointError: Listing all keys that are missing, unexpected or wrongly shaped.
    """
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"weights file {path} cannot be read: {error}") from error
    own = module.state_dict()
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in own]
    problems += [
        f"{name} has shape {tuple(tensor.shape)} where {tuple(own[name].shape)} is needed"
        for name, tensor in tensors.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if problems:
        raise CheckpointError(f"weights file {path.name}: " + "; ".join(problems))
    module.load_state_dict(tensors)


def _tensors_bytes(module: nn.Module) -> bytes:
    tensors: dict[str, Tensor] = {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format).clone()
        for name, tensor in module.state_dict().items()
    }
    return safetensors.torch.save(tensors)
