"""``docs/experiments.md``: its table, its phases and its settings are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from onceforall.job.config import RunConfig, resolve
from onceforall.job.recipes import named_recipe
from onceforall.job.sections import PhaseConfig
from onceforall.measure.costs import count_macs, count_params
from onceforall.supernets.families import ofanet

PAGE = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text()
RECIPE = named_recipe(
    "cifar10-ofanet", "cifar10", image_side=32, num_train=50_000, num_classes=10
)  # fmt: skip


def test_the_costs_of_the_eight() -> None:
    spec = ofanet()
    rows = re.findall(r"^\| \((\d), (\d), (\d)\) \| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 8 == spec.space.size
    for *place, macs, params in rows:
        kernel_size, depth, width = map(int, place)
        arch = spec.space.uniform(kernel_size=kernel_size, depth=depth, expand_ratio=width)
        plan = spec.blueprint(arch)
        assert int(macs.replace(",", "")) == count_macs(plan, resolution=32)
        assert int(params.replace(",", "")) == count_params(plan)


def test_the_phases_of_the_recipe() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+)[^|]* \| ([\d.]+) \|", PAGE, re.MULTILINE)
    phases = [(p.name, str(int(p.epochs)), f"{p.learning_rate:g}") for p in RECIPE.train.phases]
    assert rows == phases


def test_the_phases_in_yaml_make_a_plan() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    config = resolve(RECIPE, file=text)
    plan = config.plan(config.spec(10))
    assert [phase.name for phase in plan.phases] == ["full", "kernel", "rest"]
    assert sum(phase.epochs for phase in plan.phases) == 255
    told = set(re.findall(r"`(\w+)`", PAGE.partition("| key |")[2].partition("\n\n")[0]))
    assert set(PhaseConfig.model_fields) - {"name"} <= told


def test_settings_exist() -> None:
    sections = RunConfig.model_fields
    found = re.findall(rf"\b({'|'.join(sections)})\.([a-z_]+)\b", PAGE)
    assert len(found) > 8
    for section, key in found:
        fields = getattr(sections[section].annotation, "model_fields")  # noqa: B009
        assert key in fields, f"{section}.{key}"
