"""The latency step of a run: this machine is measured, and predicts the rest of the space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onceforall.errors import CheckpointError, MeasurementError
from onceforall.files import damaged, read_json, write_json
from onceforall.job.context import Run
from onceforall.job.tasks.latency_models import device_models
from onceforall.measure.cost_tables import CostTable, compile_costs
from onceforall.measure.latency.model import (
    LatencyModel,
    build_latency_model,
    latency_costs,
)
from onceforall.measure.latency.targets import make_target


def latency_step(run: Run) -> None:
    """Measure this machine: blocks and whole subnets, a model that predicts the rest."""
    path = run.folder.latency(run.config)
    if path.is_file():
        return
    latency = run.config.latency
    model = build_latency_model(
        run.spec,
        target=make_target(latency.target, threads=latency.threads),
        budget_s=latency.budget_s,
        seed=run.config.seed,
        journal=path.with_suffix(".jsonl"),
        progress=lambda done, total: run.progress("latency", done, total),
    )
    write_json(path, model.to_json())


def cost_table(run: Run, devices: Mapping[str, Path] | None = None) -> CostTable:
    """Return exact costs and predicted latency of the run's space, and of further devices."""
    path = run.folder.latency(run.config)
    if not path.is_file():
        raise CheckpointError(f"{run.folder.path} has no latency model: run  ofa run  first")
    try:
        model = LatencyModel.from_json(read_json(path))
    except MeasurementError as error:
        raise damaged(path, str(error)) from error
    models = {"latency_ms": model, **device_models(devices or {})}
    return compile_costs(run.spec, **latency_costs(run.spec, models))
