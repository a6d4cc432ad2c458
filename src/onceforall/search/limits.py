"""Limits as users give them: upper bounds by name, some of them several at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onceforall.errors import ConfigError
from onceforall.measure.cost_tables import COSTS


def check_limits(limits: Mapping[str, float]) -> None:
    """Raise ConfigError if a limit is of no known cost or not positive."""
    for name, bound in limits.items():
        if name not in COSTS:
            raise ConfigError(f"limit {name!r} is not one of {', '.join(COSTS)}")
        if not 0 < bound < math.inf:
            raise ConfigError(f"limit {name}={bound:g} is not a number above 0")


def limit_words(limits: Mapping[str, float]) -> str:
    """Return limits as they are given: ``macs=1e+08, latency_ms=2``."""
    return ", ".join(f"{name}={bound:g}" for name, bound in limits.items()) or "no limit"


def each_limit(limits: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Return one set of limits for each bound of the name that has several.

    Args:
        limits: Bounds by name, each at least one.

    Raises:
        ConfigError: If several names have several bounds.
    """
    varied = [name for name, bounds in limits.items() if len(bounds) > 1]
    if len(varied) > 1:
        raise ConfigError(f"only one limit may have several bounds, not {' and '.join(varied)}")
    count = len(limits[varied[0]]) if varied else 1
    return [
        {name: bounds[i] if len(bounds) > 1 else bounds[0] for name, bounds in limits.items()}
        for i in range(count)
    ]
