"""Starting from a network that is trained already: its space, its weights, its normalisation.

A checkpoint is a supernet of this package (``.safetensors`` with its ``.json``), or a published
static network (its weights with the configuration beside them, of the same name and ``.json``).
Around the latter a space is built, of which it is one subnet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from onceforall.data.bundle import Rgb
from onceforall.errors import ConfigError
from onceforall.files import read_json_file
from onceforall.supernets.around import embed, space_around
from onceforall.supernets.published.checkpoint import load_published, read_weights
from onceforall.supernets.spec import StaticSpec, SupernetSpec
from onceforall.supernets.supernet import Supernet
from onceforall.supernets.weights import spec_from_json
from onceforall.zoo.load import load_config_net


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a trained network brings along.

    Attributes:
        spec: Its stage table, or that of the space around it.
        num_classes: Classes that it was trained on.
        resolution: Side that it was trained at, in pixels.
        mean: Mean of each channel that it expects to be taken off.
        std: Standard deviation that it expects to be divided by.
    """

    spec: SupernetSpec
    num_classes: int
    resolution: int
    mean: Rgb
    std: Rgb


def read_start(weights: Path, *, num_classes: int) -> Start:
    """Return what is known of a checkpoint.

    Raises:
        ConfigError: If there is no JSON file beside it, or no space can be built around it.
    """
    beside = weights.with_suffix(".json")
    if not beside.is_file():
        raise ConfigError(f"{weights} needs {beside.name} beside it, which says what it is")
    content = read_json_file(beside)
    if isinstance(content, dict) and "spec" in content:
        spec = spec_from_json(content["spec"])
        return Start(
            spec=spec,
            num_classes=spec.num_classes,
            resolution=spec.space.resolutions[-1],
            mean=tuple(content["mean"]),
            std=tuple(content["std"]),
        )
    found = load_config_net(beside)
    return Start(
        spec=space_around(
            found.model.plan, num_classes=num_classes, resolutions=(found.resolution,)
        ),
        num_classes=found.model.plan.num_classes,
        resolution=found.resolution,
        mean=found.preprocessing.mean,
        std=found.preprocessing.std,
    )


def load_start(net: Supernet, weights: Path, *, reinit_head: bool) -> None:
    """Load a checkpoint into a supernet: its own weights, or a static network inside of it.

    Args:
        net: Supernet of the same table, or of the space around the network.
        weights: The checkpoint.
        reinit_head: Keep the classifier of ``net`` where the checkpoint has other classes.

    Raises:
        CheckpointError: If the weights do not fit; the supernet is as it was.
    """
    beside = weights.with_suffix(".json")
    content = read_json_file(beside) if beside.is_file() else {}
    is_around = not isinstance(net.spec, StaticSpec) and net.space.size > 1
    if not (isinstance(content, dict) and "blocks" in content and is_around):
        load_published(net, read_weights(weights), reinit_head=reinit_head)
        return
    found = load_config_net(beside, weights)
    with torch.no_grad():
        embed(net, found.model)
