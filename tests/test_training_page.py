"""``docs/training.md`` names what there is: recipes, plans, settings, options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from onceforall.cli.app import app
from onceforall.job.config import RunConfig
from onceforall.job.recipes import RECIPES, named_recipe
from onceforall.job.sections import DataConfig, TrainConfig

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "training.md").read_text()
SECTIONS = RunConfig.model_fields


def test_the_page_is_short_and_linked() -> None:
    assert len(PAGE.splitlines()) <= 120
    for page in ("training", "latency", "distributed"):
        assert f"docs/{page}.md" in (ROOT / "README.md").read_text()
    for name in re.findall(r"\]\((\w+\.md)\)", PAGE):
        assert (ROOT / "docs" / name).is_file()


# What transfer trains is known only with the network that it starts from.
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "transfer"])
def test_recipes_have_the_length_that_the_page_says(name: str) -> None:
    (row,) = re.findall(rf"^\| `{name}` \|(.*)\|$", PAGE, re.MULTILINE)
    _, epochs, rate, _ = (cell.strip() for cell in row.split("|"))
    config = named_recipe(name, "x", image_side=400, num_train=1_281_167, num_classes=1000)
    plan = config.plan(config.spec(1000))
    shown = [int(number) for number in re.findall(r"\d+", epochs)]
    assert shown == ([] if config.train.epochs is None else [plan.epochs])
    peak, images = (float(number) for number in re.findall(r"[\d.]+", rate))
    assert plan.phases[0].learning_rate / plan.reference_batch == pytest.approx(peak / images)


def test_every_plan_and_policy_has_its_row() -> None:
    for plan in get_args(TrainConfig.model_fields["plan"].annotation):
        assert f"| `{plan}` |" in PAGE
    for policy in get_args(DataConfig.model_fields["policy"].annotation):
        assert f"`{policy}`" in PAGE


def test_settings_and_options_exist() -> None:
    sections = "|".join(SECTIONS)
    settings = re.findall(rf"\b({sections})\.(?!safetensors)([a-z_]+)\b", PAGE)
    assert len(settings) > 15
    for section, key in settings:
        fields = getattr(SECTIONS[section].annotation, "model_fields")  # noqa: B009
        assert key in fields, f"{section}.{key}"
    verbs = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert set(re.findall(r"ofa (\w+)", PAGE)) <= verbs
    sources = "".join(path.read_text() for path in (ROOT / "src/onceforall/cli").glob("*.py"))
    for option in set(re.findall(r"--[a-z][a-z-]+", PAGE)) - {"--logdir"}:
        assert f'"{option}"' in sources, option
