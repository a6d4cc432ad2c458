"""The network that a user names for a run: a stage table of their own, or a published one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onceforall.artifacts import Card
from onceforall.blueprint import Blueprint
from onceforall.errors import ConfigError, ZooError
from onceforall.files import reason_of
from onceforall.job.config import flag
from onceforall.job.outside_nets import is_factory
from onceforall.reading import named, parse_json, read_bounded
from onceforall.supernets.families import PUBLISHED_RESOLUTIONS, published_spec
from onceforall.supernets.spec import GraphSpec, StaticSpec, SupernetSpec
from onceforall.supernets.static_families import STATIC_FAMILIES
from onceforall.supernets.weights import spec_from_json, spec_to_json
from onceforall.yaml_text import parse_yaml
from onceforall.zoo.entries import find_entry
from onceforall.zoo.load import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ZooNet,
    load_config_net,
    load_static,
    weights_file,
)

# A file need not say what the data set and the pictures decide.
_OF_THE_DATA: dict[str, Any] = {"num_classes": 2, "resolutions": [32]}


def network_flags(
    net: str | Path | SupernetSpec | None, static: str | Path | None, weights: str | Path | None
) -> list[str]:
    """Return the settings that name a network and the weights that it starts from.

    Args:
        net: A supernet, as of :func:`net_flags`; None or empty for none.
        static: A static network, as of :func:`static_flags`; likewise.
        weights: A file or ``official``; likewise.

    Raises:
        ConfigError: If two networks are named, or weights of none.
    """
    if net and static:
        raise ConfigError(f"--net {net} and --static {static} are two networks: give one")
    if weights and not (net or static):
        raise ConfigError("--weights needs --net: whose weights are they? (--init needs none)")
    flags: list[str] = []
    if net:
        flags = net_flags(net)
    elif static:
        flags = static_flags(str(static), has_weights=bool(weights))
    return [*flags, *(weights_flags(str(net or static), str(weights)) if weights else [])]


def net_flags(net: str | Path | SupernetSpec) -> list[str]:
    """Return the settings that name a network.

    Args:
        net: A stage table, a YAML or JSON file of one, a published supernet id, or what makes any
            other network: ``torchvision:NAME``, ``timm:NAME``, ``module.path:function``. Input
            sides that a table says replace those that suit the images.

    Raises:
        ConfigError: If it is none of these.
    """
    if isinstance(net, GraphSpec):
        raise ConfigError("a traced network is named by what makes it, e.g. torchvision:resnet18")
    if isinstance(net, str) and is_factory(net):
        return _factory_flags(net)
    if isinstance(net, SupernetSpec):
        return _flags(spec_to_json(net), has_sides=True)
    path = Path(net)
    if path.suffix not in (".yaml", ".yml", ".json"):
        flags = _flags(spec_to_json(published_spec(str(net))), has_sides=True)
        moments = {"data.mean": list(IMAGENET_MEAN), "data.std": list(IMAGENET_STD)}
        return [*flags, *(flag(key, value) for key, value in moments.items())]
    try:
        text = read_bounded(named(path))
        # YAML would take the 1e-05 of a JSON file for a string.
        value = parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} is no stage table: {reason_of(error)}") from error
    if isinstance(value, dict) and isinstance(value.get("spec"), dict):
        value = value["spec"]  # as supernet.json of a run has it
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is no stage table: it holds {type(value).__name__}")
    try:
        spec = spec_from_json({**_OF_THE_DATA, **value})
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{path} is no stage table: {error}") from error
    return _flags(spec_to_json(spec), has_sides="resolutions" in value)


def _factory_flags(net: str) -> list[str]:
    flags = ["supernet.family=graph", flag("supernet.source", net)]
    place = net.partition(":")[0]
    if place in ("torchvision", "timm"):  # their weights expect what ImageNet is
        flags += [
            flag("data.mean", list(IMAGENET_MEAN)), flag("data.std", list(IMAGENET_STD))
        ]  # fmt: skip
    return flags


def _flags(table: dict[str, Any], *, has_sides: bool) -> list[str]:
    flags = ["supernet.family=table", flag("supernet.table", table)]
    return flags + ([flag("supernet.resolutions", table["resolutions"])] if has_sides else [])


def static_flags(name: str, *, has_weights: bool = False) -> list[str]:
    """Return the settings of training a static network alone, for ``--static``.

    Args:
        name: A static family, a published specialised id, a configuration (``.json``), or the
            folder of a shipped model, whose architecture it is.
        has_weights: Whether trained weights come with it: then so does its normalisation.

    Raises:
        ConfigError: If it is none of these.
        ZooError: If the architecture of a published id is only in a file that is not there.
    """
    plan, side, moments = _static(name)
    path = Path(name)
    spec = StaticSpec(
        name=path.stem if path.suffix == ".json" else path.name,
        plan=plan,
        num_classes=plan.num_classes,
        resolutions=(side,),
    )
    own = [flag(key, value) for key, value in moments.items()] if has_weights else []
    return [*_flags(spec_to_json(spec), has_sides=True), "grid.ship=true", *own]


def _static(name: str) -> tuple[Blueprint, int, dict[str, list[float]]]:
    """Return a static network, its side in pixels, and the normalisation of its images."""
    path = Path(name)
    if name in STATIC_FAMILIES:
        imagenet = {"data.mean": list(IMAGENET_MEAN), "data.std": list(IMAGENET_STD)}
        return STATIC_FAMILIES[name](), PUBLISHED_RESOLUTIONS[-1], imagenet
    if (path / "card.json").is_file():
        card = Card.read(path / "card.json")
        if not isinstance(card.blueprint, Blueprint):
            raise ConfigError(f"--static {name!r} is a traced network: name what makes it, --net")
        own = {"data.mean": list(card.mean), "data.std": list(card.std)}
        return card.blueprint, card.resolution, own
    if path.suffix == ".json":
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        loaded = load_config_net(path)
    else:
        loaded = _published_static(name)
    said = loaded.preprocessing
    return (
        loaded.model.plan,
        loaded.resolution,
        {"data.mean": list(said.mean), "data.std": list(said.std)},
    )


def _published_static(name: str) -> ZooNet:
    try:
        find_entry(name, "specialized", "proxylessnas")
    except ZooError as error:
        families = ", ".join(STATIC_FAMILIES)
        raise ConfigError(
            f"--static {name!r} is no .json file, no folder of a model, and not one of {families}; "
            f"{error}"
        ) from error
    return load_static(name)


def weights_flags(net: str, weights: str) -> list[str]:
    """Return the settings that name the weights to start from.

    Args:
        net: Network whose weights they are; a published id where they are ``official``.
        weights: A file, or ``official``: from the cache, else downloaded.

    Raises:
        ConfigError: If there is no such file.
        ZooError: If the official weights cannot be had.
    """
    path = weights_file(net) if weights == "official" else Path(weights)
    if not path.is_file():
        raise ConfigError(f"--weights {weights!r} is neither a file nor official")
    return [flag("train.init", str(path))]
