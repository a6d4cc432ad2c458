"""Subnets of a network that was good already: between the weights it was given and trained ones.

Training makes small subnets good at the cost of the largest. On the straight line between both
sets of weights every subnet has a place of its own: large ones stay near those that were given,
small ones are as they were trained (docs/results/own-network.md). The places lie beside the
trained supernet, in ``supernet.json``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onceforall.arch import Arch
from onceforall.errors import CheckpointError, ConfigError
from onceforall.files import damaged, read_object
from onceforall.job.context import Run
from onceforall.job.weights import trained_supernet
from onceforall.measure.costs import count_macs
from onceforall.records import fits
from onceforall.supernets.nets import ElasticNet, interpolated
from onceforall.supernets.spec import SupernetSpec
from onceforall.supernets.weights import load_saved_supernet

# Its key beside the trained supernet.
INTERPOLATION = "interpolation"
Subnets = Callable[[Arch], ElasticNet]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpolation:
    """How far the weights of subnets are from those given (0) to those trained (1), by size.

    Attributes:
        sizes: Sizes of subnets, ascending, see :func:`size_of`.
        shares: The share of each; between two sizes lie the shares between theirs.
    """

    sizes: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        pairs = len(self.sizes) == len(self.shares) > 0 and list(self.sizes) == sorted(self.sizes)
        if not (pairs and all(0 <= value <= 1 for value in (*self.sizes, *self.shares))):
            raise ConfigError(f"{INTERPOLATION} {list(self.sizes)}, {list(self.shares)} is none")

    @classmethod
    def from_json(cls, value: Any) -> Interpolation:
        """Return what :meth:`to_json` wrote.

        Raises:
            ConfigError: If it is something else.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, Mapping) or set(value) != names:
            raise ConfigError(f"{INTERPOLATION} has not the keys sizes and shares")
        lists = {
            name: tuple(part) if isinstance(part, list) else part for name, part in value.items()
        }
        for name, part in lists.items():
            if not fits(part, tuple[float, ...]):
                raise ConfigError(f"{INTERPOLATION}.{name} {part!r} is no list of numbers")
        return cls(**lists)

    def to_json(self) -> dict[str, list[float]]:
        """Return it as a JSON object."""
        return {"sizes": list(self.sizes), "shares": list(self.shares)}

    def share(self, size: float) -> float:
        """Return the share of a subnet of some size, 0 .. 1."""
        return float(np.interp(size, self.sizes, self.shares))


def size_of(spec: SupernetSpec, arch: Arch) -> float:
    """Return the MACs of a subnet over those of the largest, both at the largest's side.

    Images of another side are no reason for other weights.
    """
    largest = spec.space.largest
    same = dataclasses.replace(arch, resolution=largest.resolution)
    macs, most = (
        count_macs(spec.blueprint(each), resolution=largest.resolution) for each in (same, largest)
    )
    return macs / most


def trained_subnets(run: Run) -> Subnets:
    """Return the function from a subnet to a supernet with its weights, not to be changed.

    Raises:
        CheckpointError: If the supernet is not trained yet, or a file is damaged.
    """
    return subnets_beside(run.folder.supernet, trained_supernet(run))


def subnets_beside(path: Path, trained: ElasticNet) -> Subnets:
    """Return the function from a subnet to a supernet with its weights, not to be changed.

    Args:
        path: The trained supernet of a run.
        trained: What is in it.

    Raises:
        CheckpointError: If a file is damaged.
    """
    facts = read_object(path.with_suffix(".json"))
    if INTERPOLATION not in facts:
        return lambda arch: trained
    try:
        found = Interpolation.from_json(facts[INTERPOLATION])
    except ConfigError as error:
        raise damaged(path.with_suffix(".json"), str(error)) from error
    start = path.absolute().parents[1] / "network.safetensors"
    if not start.is_file():
        raise CheckpointError(
            f"{path} has subnets between its weights and those of {start}, which is not there"
        )
    given, _ = load_saved_supernet(start)
    if given.spec != trained.spec:
        raise CheckpointError(f"{start} is of another network than {path}")
    given = given.to(next(trained.parameters()).device)
    return lambda arch: interpolated(given, trained, found.share(size_of(trained.spec, arch)))
