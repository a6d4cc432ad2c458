"""Options that several verbs share."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from onceforall.errors import ConfigError
from onceforall.job.clock import parse_time
from onceforall.reading import named, read_bounded
from onceforall.yaml_text import MAX_YAML_BYTES

# As in the configuration, which is not loaded before a verb needs it.
MAX_SEED = 2**63 - 1

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="digits, cifar10, cifar100, fashion_mnist, an .npz file, or a folder of class folders",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the run", show_default=False)]
OptionalOut = Annotated[
    Path | None, typer.Option("--out", help="Folder of the run", show_default=False)
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a run", show_default=False)
]
Root = Annotated[str, typer.Option("--root", help="Folder where downloaded data sets are and go")]
OnBadImage = Annotated[
    str, typer.Option("--on-bad-image", help="refuse or skip images that cannot be read")
]
OptionalOnBadImage = Annotated[
    str | None,
    typer.Option(
        "--on-bad-image",
        help="refuse or skip images that cannot be read; by default refuse",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help="YAML file of settings, or run.yaml of another run", show_default=False
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. train.epochs=20"),
]
Recipe = Annotated[
    str,
    typer.Option(
        "--recipe",
        help="auto, imagenet-ofa, imagenet-ofa-proxylessnas, imagenet-ofa-resnet50d, "
        "imagenet-sandwich, cifar10-ofanet, transfer",
    ),
]
Init = Annotated[
    str, typer.Option("--init", metavar="FILE", help="Start from a supernet's weights")
]
ReinitHead = Annotated[
    bool, typer.Option("--reinit-head", help="With --init: a fresh classifier for other classes")
]
FreezeBackbone = Annotated[
    bool, typer.Option("--freeze-backbone", help="With --init: train the classifier only")
]
HeadFactor = Annotated[
    float | None,
    typer.Option("--head-factor", help="Learning rate of the classifier over that of the rest"),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write scalars to the run's tensorboard/ too")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="Seed of everything")]
OptionalSeed = Annotated[
    int | None,
    typer.Option(
        "--seed", min=0, max=MAX_SEED, help="Seed of everything; by default 0", show_default=False
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="TIME",
        help="Time of the whole command, start to report, e.g. 90s, 5m, 2h",
    ),
]
Effort = Annotated[
    str | None,
    typer.Option(
        "--effort",
        help="Without --budget: quick, balanced (the default) or best; the time is said at the "
        "start",
        show_default=False,
    ),
]
Net = Annotated[
    str,
    typer.Option(
        "--net",
        metavar="NET",
        help="YAML file of your own stage table, a published supernet id, torchvision:NAME, "
        "timm:NAME or module.path:function; by default what suits images, time and machine",
    ),
]
Static = Annotated[
    str,
    typer.Option(
        "--static",
        metavar="NET",
        help="Train a static network alone: mobilenet_v3_large, mobilenet_v2, resnet50, resnet50d, "
        "a published specialised id, a configuration (.json), or the folder of a shipped model",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Weights of --net or --static to start from: a file, or official",
    ),
]
Epochs = Annotated[
    float | None,
    typer.Option(
        "--epochs", min=0, help="Passes over the training images; 0 takes the weights as they are"
    ),
]
EpochsScale = Annotated[
    float | None,
    typer.Option(
        "--epochs-scale",
        metavar="FACTOR",
        help="Shorten (or lengthen) a recipe that says its epochs, all phases in proportion",
        show_default=False,
    ),
]
StartAt = Annotated[
    str,
    typer.Option(
        "--start-at",
        metavar="PHASE",
        help="With --init: begin with this phase of the plan, from what the one before it left in "
        "RUN/checkpoints/phases/",
    ),
]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=BOUND",
        help="Upper bound of latency_ms, macs, params or peak_activation_bytes (or, in a search, "
        "latency_ms@NAME), e.g. latency_ms=2",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value to standard output")]


def transfer_flags(
    init: str,
    *,
    weights: str = "",
    reinit_head: bool,
    freeze_backbone: bool,
    head_factor: float | None,
    start_at: str = "",
) -> list[str]:
    """Return the settings that options for starting from weights stand for.

    Raises:
        ConfigError: If the file is not there, or an option needs one.
    """
    if not (init or weights) and (reinit_head or freeze_backbone):
        raise ConfigError("--reinit-head and --freeze-backbone need --init FILE or --weights")
    if not init and start_at:
        raise ConfigError(
            f"--start-at {start_at!r} needs --init FILE: what the phase before it left"
        )
    if init and not Path(init).is_file():
        raise ConfigError(f"--init {init!r} is not a file")
    # YAML does not read what JSON escapes beyond its first plane.
    flags = [f"train.init={json.dumps(init, ensure_ascii=False)}"] if init else []
    flags += [f"train.start_at={json.dumps(start_at, ensure_ascii=False)}"] if start_at else []
    flags += ["train.reinit_head=true"] if reinit_head else []
    flags += ["train.freeze_backbone=true"] if freeze_backbone else []
    return flags + ([] if head_factor is None else [f"train.head_factor={head_factor}"])


def parse_budget(text: str | None) -> float | None:
    """Return the seconds of ``90s``, ``5m``, ``1.5h`` or a plain number of seconds.

    Raises:
        ConfigError: If it is none of these.
    """
    if text is None:
        return None
    try:
        return parse_time(text)
    except ConfigError as error:
        raise ConfigError(f"--budget {error}") from error


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """Return the numbers of ``0.5,0.5,0.5``.

    Raises:
        ConfigError: If one is not a number.
    """
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise ConfigError(f"{name} {text!r} is not a list of numbers") from error
    if not all(map(math.isfinite, numbers)):
        raise ConfigError(f"{name} {text!r} is not a list of finite numbers")
    return numbers


def given_options(context: typer.Context) -> list[str]:
    """Return the options and arguments that are on the command line, as they are spelled."""
    given = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            given.append(max(parameter.opts, key=len))
    return given


def read_config(path: Path | None) -> str | None:
    """Return the text of a file of settings.

    Raises:
        ConfigError: If it is no text.
        OSError: If it cannot be read.
    """
    try:
        return None if path is None else read_bounded(named(path), MAX_YAML_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path} is not a text file") from error


def parse_on_bad_image(text: str) -> Literal["refuse", "skip"]:
    """Return the choice.

    Raises:
        ConfigError: If it is neither.
    """
    if text == "refuse" or text == "skip":
        return text  # type: ignore[return-value]
    raise ConfigError(f"--on-bad-image {text!r} is not one of refuse, skip")


def parse_limits(texts: list[str] | None) -> dict[str, list[float]]:
    """Return the bounds of ``name=bound[,bound...]`` options by name.

    Raises:
        ConfigError: If one is of another form, or a name comes twice.
    """
    limits: dict[str, list[float]] = {}
    for text in texts or []:
        name, equals, bounds = text.partition("=")
        try:
            values = [float(bound) for bound in bounds.split(",")]
        except ValueError:
            values = []
        if not equals or not values or name in limits or any(map(math.isnan, values)):
            raise ConfigError(
                f"--limit {text!r} is not of the form name=bound, once per name, the bound a plain "
                "number: latency_ms=0.5, params=15e3"
            )
        limits[name] = values
    return limits


def check_published(is_published: bool, given: Mapping[str, object], options: str) -> None:
    """Raise ConfigError unless what ships a subnet of a published network comes with it, whole.

    Args:
        is_published: Whether one is to be shipped.
        given: Values of options by name; all are needed, or none.
        options: That say that one is, for the message.
    """
    named = [name for name, value in given.items() if value]
    if named and not is_published:
        raise ConfigError(f"{named[0]} goes with {options}")
    if is_published and len(named) < len(given):
        missing = " and ".join(name for name, value in given.items() if not value)
        raise ConfigError(f"a published network that ships needs {missing} too")
