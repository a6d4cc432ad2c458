"""Networks of torchvision, timm or the user, by name: made, given weights, made elastic."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from onceforall.errors import BlueprintError, CheckpointError, ConfigError, MissingExtraError
from onceforall.job.sections import SupernetConfig
from onceforall.supernets.graphs.assemble import ElasticChoices
from onceforall.supernets.graphs.elasticize import elasticize
from onceforall.supernets.graphs.supernet import GraphSupernet
from onceforall.supernets.published.checkpoint import read_weights

_USUAL_SIDE = 224


def is_factory(net: str) -> bool:
    """Return whether a name is of the form ``package:name``, as factories are."""
    place, colon, name = net.partition(":")
    is_module = all(part.isidentifier() for part in place.split("."))
    return bool(colon) and is_module and re.fullmatch(r"[\w.-]+", name) is not None


def make_network(source: str, *, num_classes: int) -> nn.Module:
    """Return a fresh network, drawn from PyTorch's current generator.

    Args:
        source: ``torchvision:NAME``, ``timm:NAME``, or ``module.path:function``; the function may
            take ``num_classes``.
        num_classes: Logits.

    Raises:
        ConfigError: If there is no such network.
        MissingExtraError: If its package is not installed.
    """
    place, _, name = source.partition(":")
    if place == "torchvision":
        import torchvision

        if name not in torchvision.models.list_models(module=torchvision.models):
            raise ConfigError(f"--net {source!r}: torchvision has no classifier {name!r}")
        model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
        return model
    if place == "timm":
        return _from_timm(source, name, num_classes)
    with _working_folder_on_path():
        try:
            function = getattr(importlib.import_module(place), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"--net {source!r}: {error}") from error
    takes = inspect.signature(function).parameters
    made = function(num_classes=num_classes) if "num_classes" in takes else function()
    if not isinstance(made, nn.Module):
        raise ConfigError(f"--net {source!r} gave {type(made).__name__}, not a torch.nn.Module")
    return made


def _from_timm(source: str, name: str, num_classes: int) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingExtraError("timm", "timm") from error
    if not timm.is_model(name):
        raise ConfigError(f"--net {source!r}: timm has no model {name!r}")
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes)
    return model


@contextmanager
def _working_folder_on_path() -> Iterator[None]:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


def load_weights(model: nn.Module, path: Path, *, reinit_head: bool = False) -> None:
    """Load a state dict into a network.

    Args:
        model: Network to load into.
        path: ``.pth``, ``.pt`` or ``.safetensors``; read without unpickling.
        reinit_head: Leave out what has another shape, such as a classifier for other classes.

    Raises:
        CheckpointError: If tensors are missing, unexpected or of another shape; the first is named.
    """
    tensors = {name.removeprefix("module."): t for name, t in read_weights(path).items()}
    own = model.state_dict()
    wrong = [name for name, t in tensors.items() if name in own and own[name].shape != t.shape]
    if wrong and not reinit_head:
        name = wrong[0]
        raise CheckpointError(
            f"{path}: {name} has shape {tuple(tensors[name].shape)} where "
            f"{tuple(own[name].shape)} is needed; --reinit-head leaves out what does not fit"
        )
    missing = [name for name in own if name not in tensors and "num_batches" not in name]
    unexpected = [name for name in tensors if name not in own]
    if missing or unexpected:
        problem = f"no {missing[0]}" if missing else f"unexpected {unexpected[0]}"
        raise CheckpointError(f"{path} does not fit {type(model).__name__}: {problem}")
    model.load_state_dict(
        {name: t for name, t in tensors.items() if name not in wrong}, strict=False
    )


@lru_cache(maxsize=2)
def elastic_network(
    source: str,
    num_classes: int,
    resolutions: tuple[int, ...],
    ratios: tuple[float, ...],
    divisor: int,
    whole_below: int,
    *,
    init: str = "",
    reinit_head: bool = False,
    seed: int = 0,
) -> GraphSupernet:
    """Return a named network made elastic; not to be changed.

    Args:
        source: See :func:`make_network`.
        num_classes: Logits.
        resolutions: Input sides in pixels.
        ratios: Shares of channels that may be kept.
        divisor: Channels are kept in multiples of it.
        whole_below: See :class:`ElasticChoices`.
        init: File of weights; fresh ones without.
        reinit_head: See :func:`load_weights`.
        seed: Seed of fresh weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_network(source, num_classes=num_classes)
    if init:
        load_weights(model, Path(init), reinit_head=reinit_head)
    side = resolutions[-1]
    return elasticize(
        model,
        torch.zeros(1, 3, side, side),
        choices=ElasticChoices(
            ratios=ratios, divisor=divisor, whole_below=whole_below, resolutions=resolutions
        ),
        name=source,
    )


def network_of(
    config: SupernetConfig, num_classes: int, *, init: str = "", reinit_head: bool = False,
    seed: int = 0,
) -> GraphSupernet:  # fmt: skip
    """Return the elastic network that a configuration names; not to be changed."""
    if not config.source:
        raise ConfigError("supernet.family graph needs supernet.source, e.g. torchvision:resnet18")
    return elastic_network(
        config.source, num_classes, config.resolutions, config.width_ratios, config.divisor,
        config.whole_below, init=init, reinit_head=reinit_head, seed=seed,
    )  # fmt: skip


def workable_sides(
    config: SupernetConfig, num_classes: int, sides: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the input sides that a network works at: those wanted, the largest, or its own.

    Raises:
        BlueprintError: If it works at none of them.
    """
    model = make_network(config.source, num_classes=num_classes)
    problem: BlueprintError | None = None
    for wanted in dict.fromkeys((sides, sides[-1:], (_own_side(model),))):
        try:
            network_of(config.model_copy(update={"resolutions": wanted}), num_classes)
        except BlueprintError as error:
            problem = error
        else:
            return wanted
    assert problem is not None
    raise problem


def _own_side(model: nn.Module) -> int:
    """Return the side of images that a network says it was made for."""
    settings = getattr(model, "default_cfg", None)
    if isinstance(settings, dict) and settings.get("input_size"):
        return int(settings["input_size"][-1])
    side = getattr(model, "image_size", _USUAL_SIDE)
    return side if isinstance(side, int) else _USUAL_SIDE
