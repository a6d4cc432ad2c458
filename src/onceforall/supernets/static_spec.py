"""A static network as a stage table: a supernet of one subnet, which trains and ships like any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from onceforall.arch import Arch
from onceforall.blueprint import Blueprint, Layer, Linear
from onceforall.errors import BlueprintError
from onceforall.genes import Place, StageChoices
from onceforall.space import SearchSpace
from onceforall.supernets.slots import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSpec:
    """A network in which nothing is elastic but the resolution.

    Attributes:
        name: What it is called.
        plan: The network; its classes may be others than ``num_classes``.
        num_classes: Outputs of the classifier.
        resolutions: Input sides in pixels, ascending.
    """

    name: str
    plan: Blueprint
    num_classes: int
    resolutions: tuple[int, ...]

    @property
    def norm_eps(self) -> float:
        """Return what batch norm adds to the variance."""
        return self.plan.norm_eps

    @property
    def norm_momentum(self) -> float:
        """Return the momentum of batch norm."""
        return self.plan.norm_momentum

    @property
    def stages(self) -> tuple[Any, ...]:
        """Return no stages: none has a choice."""
        return ()

    @property
    def space(self) -> SearchSpace:
        """Return the space of the one arch, at each resolution."""
        only = StageChoices(num_blocks=1, depths=(1,), kernel_sizes=(1,), expand_ratios=(1,))
        return SearchSpace(stages=(only,), resolutions=self.resolutions)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Return every layer in order of execution."""
        slots: list[Slot] = []
        strides: tuple[int, ...] = ()
        for layer in self.blueprint(self.space.largest).layers:
            slots.append(Slot(genes=(), layer=_always(layer), stride_before=strides))
            strides = (*strides, getattr(layer, "stride", 1))
        return tuple(slots)

    def blueprint(self, arch: Arch) -> Blueprint:
        """Return the network; there is no other.

        Raises:
            BlueprintError: If its last layer is no classifier.
        """
        *body, last = self.plan.head
        if not isinstance(last, Linear):
            raise BlueprintError(f"{self.name}: the last layer must be Linear, got {last}")
        return replace(self.plan, head=(*body, replace(last, out_features=self.num_classes)))


def _always(layer: Layer) -> Any:
    def choose(values: Mapping[Place, Any]) -> Layer:
        return layer

    return choose
