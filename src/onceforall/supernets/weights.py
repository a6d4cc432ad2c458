"""Supernets and plain networks on disk: safetensors beside JSON, nothing pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from onceforall.blueprint import LAYER_TYPES, Blueprint
from onceforall.errors import ArchError, BlueprintError, CheckpointError, ConfigError
from onceforall.files import damaged, read_object, reason_of, write_bytes, write_json
from onceforall.graph import GRAPH_TYPES, Graph
from onceforall.reading import open_regular
from onceforall.records import fits, record_from_json, record_to_json
from onceforall.supernets.graphs.network import check_graph
from onceforall.supernets.graphs.spec import GRAPH_SPEC_TYPES
from onceforall.supernets.nets import ElasticNet, NetPlan, PlainNet, build_net, new_net
from onceforall.supernets.spec import (
    FixedBlock,
    MBConvSpec,
    MBConvStage,
    ResNetSpec,
    ResNetStage,
    StaticSpec,
    SupernetSpec,
)

_Net = TypeVar("_Net", bound=nn.Module)
_SPEC_TYPES = (
    FixedBlock, MBConvSpec, MBConvStage, ResNetSpec, ResNetStage, StaticSpec, Blueprint,
    *LAYER_TYPES, *GRAPH_SPEC_TYPES, *GRAPH_TYPES,
)  # fmt: skip


def spec_to_json(spec: SupernetSpec) -> dict[str, Any]:
    """Return a stage table as a JSON object."""
    return record_to_json(spec)  # type: ignore[no-any-return]


def spec_from_json(value: Any) -> SupernetSpec:
    """Return the stage table that :func:`spec_to_json` wrote.

    Raises:
        ConfigError: If it is not one, or of a network that cannot be.
    """
    try:
        spec = record_from_json(value, _SPEC_TYPES)
        if isinstance(spec, SupernetSpec):
            for arch in (spec.space.largest, spec.space.smallest):
                plan = spec.blueprint(arch)
                if isinstance(plan, Graph):
                    check_graph(plan)
    except (ArchError, BlueprintError) as error:
        raise ConfigError(str(error)) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A traced network says everything with numbers of others of its parts.
        raise ConfigError(f"its parts do not fit each other: {error}") from error
    if not isinstance(spec, SupernetSpec):
        raise ConfigError(f"record {type(spec).__name__} is not a stage table")
    return spec


def save_supernet(net: ElasticNet, path: Path, *, facts: dict[str, Any] | None = None) -> None:
    """Write ``path`` (safetensors) and the stage table beside it (``.json``), atomically.

    Args:
        net: Supernet to save.
        path: Ends in ``.safetensors``.
        facts: JSON facts to keep beside the stage table, e.g. class names and normalisation.
    """
    # Killed in between, weights are newer than what is said of them: what made them is done again.
    write_bytes(path, _tensors_bytes(net))
    write_json(path.with_suffix(".json"), {"spec": spec_to_json(net.spec), **(facts or {})})


def load_saved_supernet(path: Path) -> tuple[ElasticNet, dict[str, Any]]:
    """Return the supernet and the facts that :func:`save_supernet` wrote; in eval mode.

    Raises:
        CheckpointError: If a file is missing, damaged or does not fit the stage table.
    """
    sidecar = path.with_suffix(".json")
    if not path.is_file() or not sidecar.is_file():
        missing = path if not path.is_file() else sidecar
        raise CheckpointError(f"supernet file {missing} does not exist")
    facts = read_object(sidecar)
    try:
        spec = spec_from_json(facts.pop("spec", None))
        _check_facts(facts)
    except ConfigError as error:
        raise damaged(sidecar, str(error)) from error
    net = _built(lambda: new_net(spec), path)
    return net.eval(), facts


def _check_facts(facts: Mapping[str, Any]) -> None:
    """Refuse facts beside a stage table that are not what they are used as.

    Raises:
        ConfigError: Naming the first.
    """
    for name in ("mean", "std"):
        values = facts.get(name)
        as_tuple = tuple(values) if isinstance(values, list | tuple) else values
        if name in facts and not fits(as_tuple, tuple[float, float, float]):
            raise ConfigError(f"{name} {facts[name]!r} is not three numbers")
    if "std" in facts and not all(value > 0 for value in facts["std"]):
        raise ConfigError(f"std {facts['std']!r} is not above 0")
    ratio = facts.get("crop_ratio", 1.0)
    if not fits(ratio, float) or not 0 < ratio <= 1:
        raise ConfigError(f"crop_ratio {ratio!r} is not in (0, 1]")


@lru_cache(maxsize=4)
def saved_spec(path: Path) -> SupernetSpec:
    """Return the spec in the ``.json`` file beside a supernet's weights; it is read once.

    Raises:
        CheckpointError: If it holds none.
    """
    try:
        return spec_from_json(read_object(path).get("spec"))
    except ConfigError as error:
        raise damaged(path, str(error)) from error


def save_plain(module: nn.Module, path: Path) -> None:
    """Write the tensors of a plain network as safetensors, atomically."""
    write_bytes(path, _tensors_bytes(module))


def load_plain(plan: NetPlan, path: Path) -> PlainNet:
    """Return the plain network of ``plan`` with the tensors of ``path``, in eval mode.

    Raises:
        BlueprintError: If a traced network does not run.
        CheckpointError: If the file is missing, damaged or does not fit.
    """
    if isinstance(plan, Graph):
        check_graph(plan)
    return _built(lambda: build_net(plan), path).eval()


def _built(make: Callable[[], _Net], path: Path) -> _Net:
    """Return a network with the tensors of a file, which decides first whether it is made.

    A table or blueprint may name a network that no memory holds; a file of its tensors is as large
    as the network.
    """
    with torch.device("meta"):
        outline = make()
    _check_fit(outline, _shapes(path), path)
    module = make()
    load_tensors(module, path)
    return module


def load_tensors(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into ``module``; every key must be there, with its shape.

    Raises:
        CheckpointError: Listing all keys that are missing, unexpected or wrongly shaped.
    """
    _check_fit(module, _shapes(path), path)
    module.load_state_dict(safetensors.torch.load_file(path))


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a file.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    try:
        with open_regular(path), safetensors.safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        why = reason_of(error)
        raise CheckpointError(f"weights file {path} cannot be read: {why}") from error


def _check_fit(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    problems = [f"missing {name}" for name in own if name not in shapes]
    problems += [f"unexpected {name}" for name in shapes if name not in own]
    problems += [
        f"{name} has shape {shape} where {own[name]} is needed"
        for name, shape in shapes.items()
        if name in own and shape != own[name]
    ]
    if problems:
        raise CheckpointError(f"weights file {path.name}: " + "; ".join(problems))


def _tensors_bytes(module: nn.Module) -> bytes:
    tensors: dict[str, Tensor] = {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format).clone()
        for name, tensor in module.state_dict().items()
    }
    return safetensors.torch.save(tensors)
