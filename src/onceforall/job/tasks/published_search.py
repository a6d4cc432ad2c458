"""Search with published artefacts: an accuracy predictor file and latency tables, no training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onceforall.artifacts import Answer
from onceforall.blueprint import Blueprint
from onceforall.errors import ConfigError, MeasurementError
from onceforall.job.tasks.latency_models import check_device_limits, cost_of, device_models, spec_of
from onceforall.measure.cost_tables import CostTable, compile_costs
from onceforall.measure.latency.published import (
    PublishedLatencyTable,
    latency_at,
    read_published_latencies,
)
from onceforall.predictors.published import read_published_predictor
from onceforall.search.evolution import evolve
from onceforall.search.limits import each_limit
from onceforall.search.problem import Problem
from onceforall.supernets.families import PUBLISHED_SUPERNETS, published_spec
from onceforall.supernets.spec import SupernetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRequest:
    """What to search with.

    Attributes:
        net: A published supernet id.
        predictor: A published predictor file.
        latency: A folder of published tables, or a latency model of ours; None for limits on
            exact costs only.
        devices: Latency models of further devices by name; each gives the cost
            ``latency_ms@NAME``, which may be limited too.
        limits: Bounds by name; one name may have several, which gives one result each.
        seed: Decides everything, unless ``budget_s`` ends the search.
        budget_s: Seconds for all limits together; None for the default effort.
    """

    net: str
    predictor: Path
    latency: Path | None
    limits: Mapping[str, Sequence[float]]
    devices: Mapping[str, Path] = field(default_factory=dict)
    seed: int = 0
    budget_s: float | None = None


def search_published(
    request: PublishedRequest, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Answer]:
    """Return the best arch for every limit.

    Image sizes are those that both the predictor and the latency tables know.

    Raises:
        ConfigError: If a file, name or limit is wrong.
        InfeasibleError: If a limit cannot be kept; the smallest reachable value is named.
    """
    wanted = each_limit(request.limits)
    bounds_by_name = {name: min(bounds) for name, bounds in request.limits.items()}
    check_device_limits(bounds_by_name, list(request.devices))
    if "latency_ms" in request.limits and request.latency is None:
        raise ConfigError("a limit on latency_ms needs --latency")
    predictor = read_published_predictor(request.predictor)
    costs = _costs(request, predictor.known_sizes)
    encoding = costs.encoding
    top1 = predictor.on_rows(encoding)
    found = []
    for chosen in wanted:
        problem = Problem(
            encoding=encoding,
            objectives={"error": lambda rows: 1 - top1(rows)},
            costs={name: costs.cost(name) for name in costs.names},
            limits=chosen,
        )
        started = time.perf_counter()
        seconds = None if request.budget_s is None else request.budget_s / len(wanted)
        best = evolve(problem, seed=request.seed, max_seconds=seconds, progress=progress)
        costs_of = {cost_of(name): best.costs[cost_of(name)] for name in request.devices}
        found.append(
            Answer(
                limits=chosen,
                arch=best.arch,
                predicted_top1=1 - best.objective,
                scale=predictor.scale,
                latency_ms=best.costs.get("latency_ms"),
                macs=int(best.costs["macs"]),
                params=int(best.costs["params"]),
                evaluations=best.evaluations,
                seconds=round(time.perf_counter() - started, 4),
                **costs_of,
            )
        )
    return found


def _costs(request: PublishedRequest, image_sizes: Sequence[int]) -> CostTable:
    """Return cost tables over the image sizes that predictor and latency tables share."""
    spec = spec_of(request.net)
    tables = dict(request.devices) | ({} if request.latency is None else {"": request.latency})
    sizes = set(spec.space.resolutions) & set(image_sizes)
    published = {n: read_published_latencies(path) for n, path in tables.items() if path.is_dir()}
    for name, found in published.items():
        _check_fit(request.net, spec, tables[name], found)
        sizes &= set(found)
        if not sizes:
            raise ConfigError(f"{tables[name]} has no image size that the others know")
    models = {name: path for name, path in tables.items() if not path.is_dir()}
    return compile_costs(
        spec,
        space=spec.space.restrict(resolution=sorted(sizes)),
        layer_costs={name: model.layer_ms for name, model in device_models(models).items()},
        layer_costs_at={cost_of(name): latency_at(found) for name, found in published.items()},
    )


def _check_fit(
    net: str, spec: SupernetSpec, folder: Path, tables: Mapping[int, PublishedLatencyTable]
) -> None:
    """Raise ConfigError if published tables are of another supernet; those that fit are named."""
    if _fits(spec, tables):
        return
    fitting = [each for each in PUBLISHED_SUPERNETS if _fits(published_spec(each), tables)]
    fits = f"this table fits {', '.join(fitting)}" if fitting else "it fits no published supernet"
    raise ConfigError(f"latency tables {folder} are not of {net}: {fits}")


def _fits(spec: SupernetSpec, tables: Mapping[int, PublishedLatencyTable]) -> bool:
    """Say whether a table has every layer of the smallest and the largest subnet."""
    table = next(iter(tables.values()))
    try:
        for arch in (spec.space.smallest, spec.space.largest):
            plan = spec.blueprint(arch)
            if not isinstance(plan, Blueprint):
                return False
            table.network_ms(plan)
    except MeasurementError:
        return False
    return True
