"""The best subnet under limits, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from onceforall.encoding import Encoding, Rows
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.latency.model import LatencyModel, latency_costs
from onceforall.search.evolution import Best, evolve
from onceforall.search.limits import check_limits
from onceforall.search.problem import Problem
from onceforall.supernets.spec import SupernetSpec


class Elastic(Protocol):
    """A supernet, or anything else that knows its stage table."""

    @property
    def spec(self) -> SupernetSpec:
        """Return the stage table."""
        ...


class Predictor(Protocol):
    """Predicts accuracy: ours, or a published one."""

    def on_rows(self, encoding: Encoding) -> Callable[[Rows], NDArray[Any]]:
        """Return the function from rows ``(N, G)`` to predicted top-1 ``(N,)``."""
        ...


def best(
    net: Elastic,
    predictor: Predictor,
    *,
    limits: Mapping[str, float],
    latency: LatencyModel | None = None,
    seed: int = 0,
    max_seconds: float | None = None,
) -> Best:
    """Return the subnet of the highest predicted accuracy that keeps every limit.

    Args:
        net: A supernet.
        predictor: Predicts accuracy.
        limits: Upper bounds of ``latency_ms``, ``macs``, ``params`` or
            ``peak_activation_bytes``.
        latency: Predicts latency; needed for a limit on ``latency_ms``.
        seed: Decides everything, unless ``max_seconds`` ends the search.
        max_seconds: Seconds to search for; None for the default effort.

    Raises:
        ConfigError: If a limit is of no known cost.
        InfeasibleError: If no subnet keeps every limit; the smallest reachable value is named.
    """
    check_limits(limits)
    models = {} if latency is None else {"latency_ms": latency}
    costs = compile_costs(net.spec, **latency_costs(net.spec, models))
    top1 = predictor.on_rows(costs.encoding)
    problem = Problem(
        encoding=costs.encoding,
        objectives={"error": lambda rows: 1 - top1(rows)},
        costs={name: costs.cost(name) for name in costs.names},
        limits=dict(limits),
    )
    return evolve(problem, seed=seed, max_seconds=max_seconds)
