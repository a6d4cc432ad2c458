"""The configuration of a run: what its sections stand for, and changing single values of them.

A YAML file and then ``--set section.key=value`` flags change a recipe; the resolved configuration
is written beside every result.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import pydantic
from pydantic import Field

from onceforall.arch import Arch
from onceforall.errors import ConfigError
from onceforall.grid import grid_archs
from onceforall.job.outside_nets import network_of
from onceforall.job.sections import (
    MAX_SEED,
    DataConfig,
    EvaluateConfig,
    GridConfig,
    LatencyConfig,
    OpenedConfig,
    PhaseConfig,
    SearchConfig,
    Section,
    SupernetConfig,
    TrainConfig,
)
from onceforall.reading import is_number
from onceforall.space import SearchSpace
from onceforall.supernets.families import (
    dense_images,
    mobilenet_v3,
    proxylessnas,
    resnet50d,
    small_images,
)
from onceforall.supernets.spec import GraphSpec, StaticSpec, SupernetSpec
from onceforall.supernets.weights import spec_from_json
from onceforall.training.plan import (
    Distillation,
    Opened,
    Phase,
    Plan,
    alone_plan,
    delayed_plan,
    original_plan,
    sandwich_plan,
)
from onceforall.training.shrinking import progressive_plan, published_plan
from onceforall.yaml_text import dump_yaml_line, parse_yaml

# Subnets of a grid, at most: one of more is a mistake, and takes longer than training.
MAX_GRID = 1000


class RunConfig(Section):
    """Everything that decides a run."""

    data: DataConfig
    supernet: SupernetConfig
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    grid: GridConfig = GridConfig()
    latency: LatencyConfig = LatencyConfig()
    search: SearchConfig = SearchConfig()
    seed: int = Field(0, ge=0, le=MAX_SEED)

    def spec(self, num_classes: int) -> SupernetSpec:
        """Return the stage table of the supernet."""
        net = self.supernet
        if net.table is not None and net.family != "table":
            raise ConfigError(f"supernet.table needs supernet.family table, not {net.family}")
        if net.family == "graph":
            return network_of(net, num_classes).spec
        if net.family == "table":
            if net.table is None:
                raise ConfigError("supernet.family table needs supernet.table")
            return dataclasses.replace(
                spec_from_json(net.table), num_classes=num_classes, resolutions=net.resolutions
            )
        if net.family == "small_images":
            return small_images(
                num_classes=num_classes,
                resolutions=net.resolutions,
                widths=net.widths,
                width_mults=net.width_mults,
                depths=net.depths,
                kernel_sizes=net.kernel_sizes,
                expand_ratios=net.expand_ratios,
                stem_width=net.stem_width,
                expand_width=net.expand_width,
                divisor=net.divisor,
                dropout=net.dropout,
            )
        if net.family == "residual" or net.family == "fused_mbconv":
            strides = net.strides or (1,) + (2,) * (len(net.widths) - 1)
            if len(strides) != len(net.widths):
                raise ConfigError(
                    f"supernet.strides {strides} has not one entry for each of the "
                    f"{len(net.widths)} supernet.widths"
                )
            return dense_images(
                block=net.family,
                num_classes=num_classes,
                resolutions=net.resolutions,
                widths=net.widths,
                strides=strides,
                depths=net.depths,
                expand_ratios=net.expand_ratios,
                width_mults=net.width_mults,
                stem_width=net.stem_width,
                stem_stride=net.stem_stride,
                divisor=net.divisor,
                dropout=net.dropout,
            )
        sizes = {"num_classes": num_classes, "resolutions": net.resolutions}
        if net.family == "resnet50d":
            return resnet50d(**sizes, dropout=net.dropout)  # type: ignore[arg-type]
        family = mobilenet_v3 if net.family == "mobilenet_v3" else proxylessnas
        return family(**sizes, width_mult=net.width_mult, dropout=net.dropout)  # type: ignore[arg-type]

    def plan(self, spec: SupernetSpec) -> Plan:
        """Return the training plan."""
        train = self.train
        is_sandwich = train.plan == "sandwich" and not train.phases
        for name, values in (("attentive", ("best", "worst")), ("distillation", ("alpha",))):
            value = getattr(train, name)
            if value in values and not is_sandwich:
                given = "train.phases" if train.phases else train.plan
                raise ConfigError(f"train.{name} {value!r} needs train.plan sandwich, not {given}")
        if train.optimizer == "muon" and isinstance(spec, GraphSpec):
            raise ConfigError("train.optimizer 'muon' is for stage tables, not traced networks")
        plan = self._plan(spec)
        clip = plan.max_grad_norm if train.max_grad_norm is None else train.max_grad_norm
        phases = plan.phases
        if train.phases:
            phases = own_phases(train.phases, epochs=train.asked_epochs)
        if not train.is_taught:
            phases = tuple(dataclasses.replace(phase, teacher="none") for phase in phases)
        if train.freeze_backbone:
            phases = tuple(dataclasses.replace(phase, trainable="classifier") for phase in phases)
        plan = dataclasses.replace(plan, phases=phases)
        if isinstance(spec, StaticSpec):
            length = sum(phase.epochs for phase in phases)
            plan = alone_plan(
                plan,
                epochs=length,
                warmup_epochs=min(1.0, length / 10),
                trainable=phases[0].trainable,
            )
        plan.index(train.start_at)
        peak = max(phase.learning_rate for phase in plan.phases)
        return dataclasses.replace(
            plan,
            head_factor=train.head_factor,
            muon_factor=train.muon_rate / peak if peak and train.optimizer == "muon" else 0.0,
            ema_decay=train.ema_decay,
            max_grad_norm=clip,
            train_side=train.side,
        )

    def grid_archs(self, space: SearchSpace) -> dict[str, Arch]:
        """Return the subnets of the grid by name.

        Raises:
            ArchError: If an option is not one of the space.
            ConfigError: If there are too many.
        """
        grid = self.grid
        found = grid_archs(
            space,
            {
                "resolution": grid.resolutions,
                "depth": grid.depths,
                "kernel_size": grid.kernel_sizes,
                "expand_ratio": grid.expand_ratios,
                "width_mult": grid.width_mults,
            },
        )
        if len(found) > MAX_GRID:
            raise ConfigError(
                f"the grid has {len(found)} subnets, more than {MAX_GRID}: name fewer options, "
                "e.g. grid.resolutions"
            )
        return found

    @property
    def finetune_epochs(self) -> int:
        """Return the epochs that each shipped model is fine-tuned for; 0 for none."""
        epochs = self.grid.finetune_epochs
        return max(1, round(epochs * self.train.epochs_scale)) if epochs else 0

    def _plan(self, spec: SupernetSpec) -> Plan:
        train = self.train
        # Before the time is known the lengths are not; their proportions are.
        usual: dict[str, Any] = {"epochs": train.asked_epochs or 100.0}
        for name in ("learning_rate", "reference_batch", "weight_decay", "label_smoothing"):
            usual[name] = getattr(train, name)
        asked = train.subnets_per_step
        drawn = usual if asked is None else usual | {"subnets_per_step": asked}
        match train.plan:
            case "sandwich":
                kind: Distillation = "alpha" if train.distillation == "alpha" else "soft_targets"
                return sandwich_plan(**drawn, distillation=kind, attentive=train.attentive)
            case "delayed":
                return delayed_plan(**drawn, full_share=train.full_share, ramp=train.ramp)
            case "original":
                return original_plan(**drawn, ramp=train.ramp)
            case "published":
                return published_plan(spec.space, **usual)
            case "progressive":
                return progressive_plan(spec.space, **usual)
            case _ as never:
                assert_never(never)


def own_phases(phases: Sequence[PhaseConfig], *, epochs: float | None) -> tuple[Phase, ...]:
    """Return phases as the engine takes them, in proportion as long as ``epochs`` in all."""
    own = sum(phase.epochs for phase in phases)
    factor = 1.0 if not epochs else epochs / own
    found = []
    for phase in phases:
        values = phase.model_dump() | {"opened": Opened(**phase.opened.model_dump())}
        values["epochs"] *= factor
        values["warmup_epochs"] *= factor
        found.append(Phase(**values))
    return tuple(found)


def phase_settings(plan: Plan) -> list[dict[str, Any]]:
    """Return the phases of a plan as ``train.phases`` takes them, without what is usual.

    A published plan printed so is a start for one of your own.
    """
    listed = []
    for phase in plan.phases:
        values = {
            name: getattr(phase, name) for name in PhaseConfig.model_fields if name != "opened"
        }
        opened = OpenedConfig(**dataclasses.asdict(phase.opened))
        config = PhaseConfig(**values, opened=opened)
        listed.append(config.model_dump(mode="json", exclude_defaults=True))
    return listed


def resolve(recipe: RunConfig, *, file: str | None = None, flags: Sequence[str] = ()) -> RunConfig:
    """Return the recipe with the changes of a YAML text and then of ``section.key=value`` flags.

    Raises:
        ConfigError: If a key is unknown (the nearest one is named) or a value is not allowed.
    """
    values = recipe.model_dump()
    if file is not None:
        _merge(values, file_settings(file), "")
    for flag in flags:
        name, equals, text = flag.partition("=")
        if not equals:
            raise ConfigError(f"--set {flag!r} is not of the form section.key=value")
        try:
            value: Any = parse_yaml(text)
        except ValueError as error:
            raise ConfigError(f"--set {flag!r}: {error}") from error
        for part in reversed(name.split(".")):
            value = {part: value}
        _merge(values, value, "")
    return validated(values)


def file_settings(text: str) -> dict[str, Any]:
    """Return the sections of a configuration file, or of the ``run.yaml`` of another run.

    Of a run everything counts but its data set, which every command names itself.

    Raises:
        ConfigError: If it is not YAML, or holds no sections.
    """
    try:
        found = parse_yaml(text) or {}
    except ValueError as error:
        raise ConfigError(f"configuration file: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"configuration file holds {type(found).__name__}, not sections")
    config = found.get("config")
    if "request" not in found or not isinstance(config, dict):
        return found
    data = {key: value for key, value in config.get("data", {}).items() if key != "source"}
    train = config.get("train")
    if isinstance(train, dict):  # of before there was another
        config = {**config, "train": {"optimizer": "sgd", **train}}
    return {**config, "data": data}


def epochs_of_run(text: str) -> list[str]:
    """Return as flags for how long the run of a ``run.yaml`` could train in its time.

    None for another file, or if it is not trained, or for as long as was planned.
    """
    file_settings(text)  # refuses what is no configuration
    found = parse_yaml(text) or {}
    trained, config = found.get("epochs_trained"), found.get("config")
    if not is_number(trained, 0.0, 1e12) or not isinstance(config, dict):
        return []
    train = validated(config).train
    if train.asked_epochs is None or math.isclose(trained, train.asked_epochs, rel_tol=1e-9):
        return []
    return [flag("train.epochs", trained / train.epochs_scale)]


def flag(key: str, value: object) -> str:
    """Return ``section.key=value`` as :func:`resolve` reads it back, numbers to the last bit.

    JSON would not do: YAML takes its ``1e-05`` for a string.
    """
    value = value.item() if isinstance(value, np.generic) else value
    text = dump_yaml_line({"": str(value) if isinstance(value, Path) else value})
    return f"{key}={text.removeprefix('{').removesuffix('}').partition(':')[2].strip()}"


def validated(values: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with these values.

    Raises:
        ConfigError: Naming the first value that is not allowed.
    """
    try:
        return RunConfig.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        given = "" if isinstance(first["input"], dict) else f" {first['input']!r}"
        raise ConfigError(f"{place}{given}: {first['msg']}") from error


def _merge(values: dict[str, Any], changes: Mapping[str, Any], prefix: str) -> None:
    """Change ``values`` in place; keys that are not there are errors."""
    for key, change in changes.items():
        if key not in values and prefix != "search.limits.":
            inner = [
                name for name, part in values.items() if isinstance(part, dict) and key in part
            ]
            if inner:
                raise ConfigError(f"unknown key {prefix}{key}; did you mean {inner[0]}.{key}?")
            near = difflib.get_close_matches(str(key), values, n=1, cutoff=0.0)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise ConfigError(f"unknown key {prefix}{key}{hint}")
        # An empty mapping takes away what is there, e.g. search.limits={}.
        if isinstance(values.get(key), dict) and isinstance(change, Mapping) and change:
            _merge(values[key], change, f"{prefix}{key}.")
        else:
            values[key] = change
