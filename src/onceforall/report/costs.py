"""Costs that records leave out: counted from the stage table, predicted by the latency table."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from onceforall.artifacts import Card
from onceforall.blueprint import Layer
from onceforall.errors import OnceForAllError
from onceforall.graph import Graph
from onceforall.measure.costs import (
    count_macs,
    count_params,
    layer_macs,
    layer_params,
    sized_layers,
)
from onceforall.measure.latency.model import LatencyModel
from onceforall.report.records import Subnet
from onceforall.supernets.spec import SupernetSpec

LayerCost = Callable[[Layer, int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostCounter:
    """What the costs of any subnet of the run come from.

    Attributes:
        spec: Stage table of the supernet, or None where it is not known.
        layer_costs: Functions from a layer and the side of its input to its share of a cost.
    """

    spec: SupernetSpec | None
    layer_costs: Mapping[str, LayerCost]

    def complete(self, subnet: Subnet) -> Subnet:
        """Return the subnet with the costs that its record does not name."""
        missing = [name for name in self.layer_costs if name not in subnet.costs]
        if self.spec is None or not missing:
            return subnet
        costs: dict[str, float] = {}
        # The stage table or the latency table may be of another space, or of another version.
        with contextlib.suppress(OnceForAllError, TypeError, ValueError):
            plan = self.spec.blueprint(subnet.arch)
            if isinstance(plan, Graph):
                counted = {
                    "macs": lambda: count_macs(plan, resolution=plan.resolution),
                    "params": lambda: count_params(plan),
                }
                counts = {name: float(counted[name]()) for name in missing if name in counted}
                return replace(subnet, costs={**counts, **subnet.costs})
            sized = [(layer, side) for layer, side, _ in sized_layers(plan, subnet.arch.resolution)]
            for name in missing:
                cost = self.layer_costs[name]
                total = sum(cost(layer, side) for layer, side in sized)
                costs |= {name: total} if math.isfinite(total) else {}
        return replace(subnet, costs={**costs, **subnet.costs})


def cost_counter(
    spec: SupernetSpec | None, tables: Sequence[LatencyModel], cards: Sequence[Card]
) -> CostCounter:
    """Return what the records of a run give.

    Args:
        spec: Stage table of the supernet, if known.
        tables: Latency tables, any number.
        cards: Cards of the models; the table of their device is taken.
    """
    devices = {(card.target.name, card.target.threads) for card in cards}
    fitting = [m for m in tables if not devices or (m.target, m.threads) in devices]
    costs: dict[str, LayerCost] = {
        "macs": layer_macs,
        "params": lambda layer, _: layer_params(layer),
    }
    if fitting:
        costs["latency_ms"] = fitting[0].layer_ms
    # Subnets share most of their layers.
    cached = {name: lru_cache(maxsize=None)(cost) for name, cost in costs.items()}
    return CostCounter(spec=spec, layer_costs=cached)
