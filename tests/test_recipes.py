"""Recipes: named ones resolve to what they say, and every setting can be changed."""

from __future__ import annotations

import pytest

from onceforall.errors import ConfigError
from onceforall.job.config import RunConfig, epochs_of_run, file_settings, resolve
from onceforall.job.recipes import RECIPES, named_recipe, recipe_for
from onceforall.supernets.spec import GraphSpec
from onceforall.yaml_text import dump_yaml

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


def test_ones_own_pictures_are_trained_with_muon_and_nothing_else_is() -> None:
    config = recipe("auto")
    spec = config.spec(5)
    plan = config.plan(spec)
    assert plan.muon_factor * max(p.learning_rate for p in plan.phases) == pytest.approx(0.05)
    other = resolve(recipe("auto"), flags=["train.optimizer=sgd"])
    assert other.plan(spec).muon_factor == 0
    faster = resolve(recipe("auto"), flags=["train.muon_rate=0.1"])
    assert faster.plan(spec).muon_factor == pytest.approx(2 * plan.muon_factor)
    assert recipe("imagenet-ofa").train.optimizer == "sgd"
    traced = GraphSpec.__new__(GraphSpec)
    with pytest.raises(ConfigError, match="'muon' is for stage tables"):
        config.plan(traced)


def test_a_run_is_repeated_for_as_long_as_it_was_trained() -> None:
    config = resolve(recipe("auto"), flags=["train.epochs=12.5"]).model_dump(mode="json")
    old = {"request": {}, "config": config}
    assert epochs_of_run(dump_yaml(old)) == []
    assert epochs_of_run(dump_yaml(old | {"epochs_trained": 12.5})) == []
    assert epochs_of_run(dump_yaml(old | {"epochs_trained": "many"})) == []
    assert epochs_of_run("") == epochs_of_run("train: {epochs: 3}") == []
    (said,) = epochs_of_run(dump_yaml(old | {"epochs_trained": 4.4}))
    assert resolve(recipe("auto"), flags=[said]).train.epochs == pytest.approx(4.4)
    config["train"] |= {"epochs_scale": 0.5}
    (said,) = epochs_of_run(dump_yaml(old | {"epochs_trained": 4.0}))
    assert resolve(recipe("auto"), flags=[said]).train.epochs == pytest.approx(8.0)


def test_a_run_of_before_muon_is_repeated_without_it() -> None:
    config = recipe("auto").model_dump(mode="json")
    assert (
        file_settings(dump_yaml({"request": {}, "config": config}))["train"]["optimizer"] == "muon"
    )
    del config["train"]["optimizer"]
    old = dump_yaml({"request": {}, "config": config})
    assert resolve(recipe("auto"), file=old).train.optimizer == "sgd"
