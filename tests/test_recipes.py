"""Recipes: named ones resolve to what they say, and every setting can be changed."""

from __future__ import annotations

import pytest

from onceforall.errors import ConfigError
from onceforall.job.config import RunConfig, resolve
from onceforall.job.recipes import RECIPES, named_recipe, recipe_for

IMAGENET = {"image_side": 400, "num_train": 1_281_167, "num_classes": 1000}


def recipe(name: str, **facts: int) -> RunConfig:
    return named_recipe(name, "imagenet/", **{**IMAGENET, **facts})


def test_auto_is_the_recipe_of_the_data() -> None:
    assert recipe("auto") == recipe_for("imagenet/", **IMAGENET)


@pytest.mark.parametrize(
    ("name", "family", "epochs", "phases"),
    [
        ("imagenet-ofa", "mobilenet_v3", 610, 6),
        ("imagenet-ofa-proxylessnas", "proxylessnas", 610, 6),
        ("imagenet-ofa-resnet50d", "resnet50d", 635, 7),
    ],
)
def test_the_published_recipes(name: str, family: str, epochs: int, phases: int) -> None:
    config = recipe(name)
    assert config.supernet.family == family
    assert config.supernet.resolutions == tuple(range(128, 225, 4))
    assert config.supernet.dropout == 0.1
    assert (config.data.num_valid, config.data.num_calibration) == (10_000, 2000)
    assert (config.data.color, config.data.min_scale, config.data.flip) == ("tf", 0.08, True)
    assert config.train.batch_size == 64
    plan = config.plan(config.spec(1000))
    assert (plan.epochs, len(plan.phases), plan.name) == (epochs, phases, "published")
    # Linear scaling: 2.6 for 2048 images.
    assert plan.phases[0].learning_rate * 2048 / plan.reference_batch == pytest.approx(2.6)


def test_settings_reach_the_published_plan() -> None:
    flags = ["train.learning_rate=0.04", "train.weight_decay=0", "train.epochs=61"]
    config = resolve(recipe("imagenet-ofa"), flags=[*flags, "train.label_smoothing=0"])
    plan = config.plan(config.spec(1000))
    usual = recipe("imagenet-ofa").plan(config.spec(1000))
    ratios = {
        round(ours.learning_rate / theirs.learning_rate, 9)
        for ours, theirs in zip(plan.phases, usual.phases, strict=True)
    }
    assert ratios == {round(0.04 / 0.08125, 9)}
    assert (plan.weight_decay, plan.label_smoothing) == (0, 0)
    assert plan.epochs == pytest.approx(61, abs=3)


def test_the_one_stage_recipe() -> None:
    config = recipe("imagenet-sandwich")
    plan = config.plan(config.spec(1000))
    (phase,) = plan.phases
    assert (phase.draw, phase.teacher, plan.distillation) == ("sandwich", "in_place", "alpha")
    assert phase.attentive == "none"
    attentive = resolve(config, flags=["train.attentive=best"])
    assert attentive.plan(config.spec(1000)).phases[0].attentive == "best"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_suits_a_small_folder(name: str) -> None:
    config = recipe(name, num_train=30, num_classes=2, image_side=100)
    assert config.data.num_valid + 2 <= 30
    assert config.data.num_calibration + config.data.num_valid <= 30
    assert config.plan(config.spec(2)).epochs >= 1


def test_an_unknown_recipe_is_named() -> None:
    with pytest.raises(ConfigError, match="'imagenet' is not one of auto, imagenet-ofa"):
        recipe("imagenet")


@pytest.mark.parametrize("name", ["sandwich", "delayed", "progressive", "published"])
def test_every_plan_averages_weights_if_asked_to(name: str) -> None:
    flags = [f"train.plan={name}", "train.epochs=20", "train.ema_decay=0.9"]
    config = resolve(recipe("auto"), flags=flags)
    assert config.plan(config.spec(5)).ema_decay == 0.9


@pytest.mark.parametrize("flag", ["train.attentive=best", "train.distillation=alpha"])
def test_what_only_a_sandwich_has_is_refused_elsewhere(flag: str) -> None:
    config = resolve(recipe("auto"), flags=[flag, "train.plan=progressive"])
    name, _, value = flag.partition("=")
    with pytest.raises(ConfigError, match=f"{name} '{value}' needs train.plan sandwich, not prog"):
        config.plan(config.spec(5))


def test_a_key_without_its_section_is_found() -> None:
    with pytest.raises(ConfigError, match=r"unknown key epochs; did you mean train\.epochs\?"):
        resolve(recipe("auto"), flags=["epochs=3"])
