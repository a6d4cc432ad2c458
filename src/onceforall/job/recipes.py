"""Recipes: complete configurations, as functions from the facts of a data set."""

from __future__ import annotations

import os

from onceforall.data import continuous_resolutions
from onceforall.errors import ConfigError
from onceforall.job.config import RunConfig
from onceforall.job.sections import (
    DataConfig,
    EvaluateConfig,
    GridConfig,
    OpenedConfig,
    PhaseConfig,
    SupernetConfig,
    TrainConfig,
)
from onceforall.job.transfer import Start
from onceforall.supernets.families import ofanet
from onceforall.supernets.weights import spec_to_json
from onceforall.training.shrinking import PUBLISHED_RATE, published_plan

_IMAGENET_SIDES = continuous_resolutions(128, 224)
RECIPES = (
    "auto",
    "imagenet-ofa",
    "imagenet-ofa-proxylessnas",
    "imagenet-ofa-resnet50d",
    "imagenet-sandwich",
    "cifar10-ofanet",
    "transfer",
)


def named_recipe(
    name: str, source: str, *, image_side: int, num_train: int, num_classes: int, seed: int = 0
) -> RunConfig:
    """Return one of ``RECIPES``; their data settings suit the data set.

    ``imagenet-ofa`` is progressive shrinking of MobileNetV3 with the published hyper-parameters,
    from the full network to the last width, in one go; the other two ``imagenet-ofa-`` recipes
    are the same for the spaces whose training was never released. ``imagenet-sandwich`` is one
    stage: sandwich rule, in-place distillation with the adaptive alpha-divergence.
    ``cifar10-ofanet`` is the whole published experiment with the small family: train, ship the
    grid of eight, fine-tune each.

    Args:
        name: A recipe; ``auto`` is `recipe_for`, and so is ``transfer`` before it is known what
            training starts from (`transfer_recipe`).
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
    if name in ("auto", "transfer"):
        return usual
    if name == "cifar10-ofanet":
        return _ofanet_recipe(usual, num_train=num_train, num_classes=num_classes)
    held_out = max(1, num_train // 3)
    data = usual.data.model_copy(
        update={
            "color": "tf",
            "min_scale": 0.08,
            "flip": True,
            "num_workers": min(8, os.cpu_count() or 1),
            "crop": "resized",
            "num_valid": min(10_000, max(2 * num_classes, round(0.15 * num_train)), held_out),
            "num_calibration": min(2000, max(64, held_out), num_train - held_out),
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
            autocast=None,
        )
    else:
        family = {"imagenet-ofa": "mobilenet_v3", "imagenet-ofa-proxylessnas": "proxylessnas"}
        net = SupernetConfig(
            family=family.get(name, "resnet50d"),
            resolutions=_IMAGENET_SIDES,
            dropout=0.1,
        )
        train = TrainConfig(
            plan="published",
            epochs=1,
            learning_rate=PUBLISHED_RATE,
            weight_decay=3e-5,
            autocast=None,
        )
        config = RunConfig(data=data, supernet=net, train=train)
        epochs = published_plan(config.spec(num_classes).space).epochs
        train = train.model_copy(update={"epochs": epochs})
    evaluate = EvaluateConfig(num_archs=1000)
    return RunConfig(data=data, supernet=net, train=train, evaluate=evaluate, seed=seed)


def _ofanet_recipe(usual: RunConfig, *, num_train: int, num_classes: int) -> RunConfig:
    """Return the experiment with the small family: phases, grid of eight, fine-tuning of each.

    Lengths and rates are those of a public re-implementation (its rates were not scaled to the
    batch, and its networks stayed at chance); warm-up, batch and what is averaged are ours.
    """
    held_out = max(1, num_train // 3)
    phases = (
        PhaseConfig(
            name="full",
            epochs=180,
            learning_rate=2.6,
            warmup_epochs=5,
            opened=OpenedConfig(kernel_size=1, depth=1, expand_ratio=1),
            draw="largest",
        ),
        # The transform to the smaller kernel runs where that kernel does, and only there.
        PhaseConfig(
            name="kernel",
            epochs=25,
            learning_rate=0.96,
            opened=OpenedConfig(kernel_size=(5,), depth=1, expand_ratio=1),
            trainable="transforms",
            teacher="frozen",
        ),
        PhaseConfig(
            name="depth",
            epochs=25,
            learning_rate=0.08,
            opened=OpenedConfig(expand_ratio=1),
            subnets_per_step=2,
            teacher="frozen",
        ),
        PhaseConfig(
            name="width",
            epochs=25,
            learning_rate=0.08,
            subnets_per_step=4,
            teacher="frozen",
            sort_channels=0,
        ),
    )
    data = {
        "num_valid": min(5000, max(2 * num_classes, round(0.1 * num_train)), held_out),
        "num_calibration": min(2000, max(64, held_out), num_train - held_out),
    }
    table = spec_to_json(ofanet(num_classes=num_classes))
    return usual.model_copy(
        update={
            "data": usual.data.model_copy(update=data),
            "supernet": SupernetConfig(family="table", table=table, resolutions=(32,)),
            "train": TrainConfig(
                plan="published",
                phases=phases,
                batch_size=min(128, max(8, num_train // 8)),
                reference_batch=2048,
                learning_rate=2.6,
                weight_decay=3e-5,
                autocast=None,
                ranks=0,
            ),
            "grid": GridConfig(every=5, ship=True, finetune_epochs=25, finetune_rate=0.16),
        }
    )


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
    is_photo = image_side > 40
    wanted = max(2 * num_classes, min(5000, max(400, round(0.1 * num_train))))
    data = DataConfig(
        source=source,
        num_valid=min(wanted, max(1, num_train // 4)),
        num_calibration=min(512, max(64, num_train // 3), num_train - num_train // 3),
        crop="resized" if is_photo else None,
        color="torch" if is_photo else None,
        min_scale=0.25,
    )
    batch_size = min(128 if num_train >= 20_000 else 64, max(8, num_train // 8))
    train = TrainConfig(
        plan="delayed",
        batch_size=batch_size,
        learning_rate=0.4,
        optimizer="muon",
        reference_batch=max(64, batch_size),
        full_share=0.4,
        side=0.8 if is_photo else 1.0,
        subnets_per_step=2,
        weight_decay=1e-3 if is_photo else 5e-4,
        label_smoothing=0.1 if num_classes > 2 else 0.0,
        autocast=None,
        ranks=0,
    )
    return RunConfig(data=data, supernet=ladder_for(image_side)[0], train=train, seed=seed)


def transfer_recipe(
    usual: RunConfig, start: Start, *, image_side: int, num_classes: int
) -> RunConfig:
    """Return the recipe that goes on from a trained network.

    Its own stage table or the space around it, its normalisation, and a schedule that keeps what
    it knows: a fresh classifier is fitted before anything learns, the learning rate is small, and
    images are varied little. They are enlarged towards the side that it was trained at, up to
    twice. The numbers are from trials on photographs (docs/results/pictures.md).

    Args:
        usual: Recipe of the data set.
        start: What is known of the network.
        image_side: Side of the stored images in pixels.
        num_classes: Classes of the data set.
    """
    top = max(32, min(start.resolution, 2 * image_side) // 16 * 16)
    sides = tuple(sorted({max(32, round(top * share / 16) * 16) for share in (0.75, 0.875, 1.0)}))
    data = usual.data.model_copy(
        update={"mean": start.mean, "std": start.std, "min_scale": 0.5, "color": "none"}
    )
    net = SupernetConfig(family="table", table=spec_to_json(start.spec), resolutions=sides)
    train = usual.train.model_copy(
        update={
            "batch_size": min(64, usual.train.batch_size),
            "learning_rate": 0.015,
            "optimizer": "sgd",
            "weight_decay": 1e-4,
            "reinit_head": start.num_classes != num_classes,
            "full_share": 0.15,
        }
    )
    return usual.model_copy(update={"data": data, "supernet": net, "train": train})


def graph_recipe(
    usual: RunConfig, *, sides: tuple[int, ...], same_at_all_sides: bool, is_narrow: bool = False
) -> RunConfig:
    """Return the recipe of a traced network: short from weights, as usual without.

    Args:
        usual: Recipe of the data set, with the settings that name network and weights.
        sides: Input sides in pixels that the network works at.
        same_at_all_sides: Whether it does the same at any other side.
        is_narrow: Whether its blocks share few channels.
    """
    data, net = usual.data, usual.supernet.model_copy(update={"resolutions": sides})
    train: dict[str, object] = {"learning_rate": 0.1, "optimizer": "sgd", "side": 1.0}
    if same_at_all_sides:
        train["side"] = usual.train.side
    if usual.train.init:
        # Trials on photographs: docs/results/own-network.md.
        data = data.model_copy(update={"min_scale": 0.5, "color": "none"})
        net = net.model_copy(
            update={"width_ratios": (0.75, 1.0) if is_narrow else (0.5, 0.75, 1.0)}
        )
        train = {
            "plan": "original",
            "learning_rate": 0.02,
            "optimizer": "sgd",
            "weight_decay": 1e-4,
            "ramp": 0.0,
            "subnets_per_step": None,
            "side": 1.0,
        }
    return usual.model_copy(
        update={
            "data": data,
            "supernet": net,
            "train": usual.train.model_copy(update=train),
        }
    )


def with_network(usual: RunConfig, start: Start) -> RunConfig:
    """Return a recipe for the very network that a checkpoint is of."""
    spec = start.spec
    net = SupernetConfig(family="table", table=spec_to_json(spec), resolutions=spec.resolutions)
    return usual.model_copy(update={"supernet": net})


def ladder_for(image_side: int) -> tuple[SupernetConfig, ...]:
    """Return the networks that suit images of a side in pixels, ascending in cost.

    Plain residual blocks of dense 3x3 convolutions: of everything that was tried they reach most
    in a given time on a processor (docs/results/pictures.md). The stem halves larger images.
    """
    sizes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((8, 16, 32), (1, 2)),
        ((16, 32, 64), (1, 2)),
        ((16, 48, 96), (1, 2)),
        ((16, 64, 128), (1, 2)),
        ((32, 64, 128), (1, 2, 3)),
        ((48, 96, 192), (1, 2, 3)),
        ((64, 128, 256), (1, 2, 3)),
        ((96, 192, 384), (1, 2, 3, 4)),
    )
    networks = []
    for widths, depths in sizes:
        strides: tuple[int, ...] = ()
        if image_side > 96:
            widths, strides = (*widths, 2 * widths[-1]), (2, 2, 2, 2)
        networks.append(
            SupernetConfig(
                family="residual",
                resolutions=_sides(image_side),
                widths=widths,
                strides=strides,
                depths=depths,
                # Ratios that differ after rounding to the divisor.
                expand_ratios=(0.5, 1.0) if widths[0] < 32 else (0.25, 0.5, 1.0),
                divisor=4 if widths[0] < 16 else 8,
                width_mults=(),
                stem_width=widths[0],
                stem_stride=1 if image_side <= 40 else 2,
            )
        )
    return tuple(networks)


def _sides(image_side: int) -> tuple[int, ...]:
    """Return three input sides of at most 224 pixels.

    They end at the images' own, or beyond it for small photographs: trained on random crops,
    networks see best what is enlarged a little (docs/results/pictures.md).
    """
    top = min(224, image_side // 32 * 32 if image_side > 96 else image_side)
    shares = (0.75, 1.0, 1.25) if 40 < image_side <= 96 else (0.75, 0.875, 1.0)
    step = 4 if top > 16 else 2
    return tuple(sorted({max(step, round(top * share / step) * step) for share in shares}))
