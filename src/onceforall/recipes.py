"""Recipes: complete configurations, as functions from the facts of a data set."""

from __future__ import annotations

import os

from onceforall.config import DataConfig, EvaluateConfig, RunConfig, SupernetConfig, TrainConfig
from onceforall.data import continuous_resolutions
from onceforall.errors import ConfigError
from onceforall.train.shrinking import PUBLISHED_RATE, published_plan

_IMAGENET_SIDES = continuous_resolutions(128, 224)
RECIPES = (
    "auto",
    "imagenet-ofa",
    "imagenet-ofa-proxylessnas",
    "imagenet-ofa-resnet50d",
    "imagenet-sandwich",
)


def named_recipe(
    name: str, source: str, *, image_side: int, num_train: int, num_classes: int, seed: int = 0
) -> RunConfig:
    """Return one of ``RECIPES``; their data settings suit the data set.

    ``imagenet-ofa`` is progressive shrinking of MobileNetV3 with the published hyper-parameters,
    from the full network to the last width, in one go; the other two ``imagenet-ofa-`` recipes
    are the same for the spaces whose training was never released. ``imagenet-sandwich`` is one
    stage: sandwich rule, in-place distillation with the adaptive alpha-divergence.

    Args:
        name: A recipe; ``auto`` is `recipe_for`.
        source: As for `recipe_for`, like the rest.

    Raises:
        ConfigError: If there is no such recipe.

    Source: Cai et al., *Once-for-All*, ICLR 2020, and the released script; Yu et al., *BigNAS*,
    ECCV 2020; Wang et al., *AlphaNet*, ICML 2021 (losses; rate and length are our choice).
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is not one of {', '.join(RECIPES)}")
    usual = recipe_for(
        source, image_side=image_side, num_train=num_train, num_classes=num_classes, seed=seed
    )
    if name == "auto":
        return usual
    data = usual.data.model_copy(
        update={
            "color": "tf",
            "min_scale": 0.08,
            "flip": True,
            "num_workers": min(8, os.cpu_count() or 1),
        }
    )
    if name == "imagenet-sandwich":
        net = SupernetConfig(family="mobilenet_v3", resolutions=(128, 160, 192, 224), dropout=0.2)
        train = TrainConfig(
            epochs=360,
            batch_size=64,
            learning_rate=0.1,
            reference_batch=256,
            weight_decay=1e-5,
            distillation="alpha",
            autocast=True,
        )
    else:
        family = {"imagenet-ofa": "mobilenet_v3", "imagenet-ofa-proxylessnas": "proxylessnas"}
        net = SupernetConfig(
            family=family.get(name, "resnet50d"),
            resolutions=_IMAGENET_SIDES,
            dropout=0.1,
        )
        train = TrainConfig(
            plan="published", epochs=1, learning_rate=PUBLISHED_RATE, weight_decay=3e-5
        )
        config = RunConfig(data=data, supernet=net, train=train)
        epochs = published_plan(config.spec(num_classes).space).epochs
        train = train.model_copy(update={"epochs": epochs})
    evaluate = EvaluateConfig(num_archs=1000)
    return RunConfig(data=data, supernet=net, train=train, evaluate=evaluate, seed=seed)


def recipe_for(
    source: str, *, image_side: int, num_train: int, num_classes: int, seed: int = 0
) -> RunConfig:
    """Return the recipe that suits a data set.

    Args:
        source: What the data set was opened with.
        image_side: Side of the stored images in pixels; of photographs, their usual shorter side.
        num_train: Training images.
        num_classes: Classes.
        seed: Seed of everything.
    """
    num_valid = max(2 * num_classes, min(10_000, round(0.15 * num_train)))
    data = DataConfig(
        source=source,
        num_valid=min(num_valid, max(1, num_train // 3)),
        num_calibration=min(2000, max(64, num_train // 3), num_train - num_train // 3),
    )
    if image_side <= 16:
        net = SupernetConfig(
            family="small_images",
            resolutions=(8, 12, 16),
            widths=(8, 16, 32),
            stem_width=8,
        )
    elif image_side <= 64:
        sides = sorted({round(image_side * share / 4) * 4 for share in (0.75, 0.875, 1.0)})
        net = SupernetConfig(
            family="small_images",
            resolutions=tuple(sides),
            widths=(24, 48, 96),
            depths=(1, 2, 3),
            expand_width=256,
        )
    else:
        top = min(224, max(96, image_side // 32 * 32))
        net = SupernetConfig(
            family="mobilenet_v3", resolutions=tuple(range(max(64, top - 64), top + 1, 32))
        )
    epochs = max(4, min(300, round(86_000 / max(num_train, 1)) + 10))
    train = TrainConfig(
        epochs=epochs, batch_size=min(64, max(8, num_train // 8)), label_smoothing=0.0
    )
    return RunConfig(data=data, supernet=net, train=train, seed=seed)
