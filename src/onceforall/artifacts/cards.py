"""Shipped models: their cards, and the same architectures trained alone."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from onceforall.artifacts.record import (
    ArchField,
    BlueprintField,
    Count,
    Deviations,
    Epochs,
    Fraction,
    Milliseconds,
    Pixels,
    PlainName,
    Positive,
    Predicted,
    Record,
    Rgb,
    Seconds,
    Spread,
)


class ShippedFile(Record):
    """Size and digest of one file of a model.

    Attributes:
        bytes: Size.
        sha256: Digest in hexadecimal.
    """

    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DeviceFacts(Record):
    """What a latency was measured on.

    Attributes:
        name: Latency target.
        threads: Threads of a run.
        hardware: Facts of the machine.
    """

    name: str
    threads: Positive
    hardware: dict[str, Any]


class FinetuneSettings(Record):
    """How a model was fine-tuned.

    Attributes:
        learning_rate: Peak.
        distill: Whether it learned from the supernet's largest subnet too.
    """

    learning_rate: Spread
    distill: bool


class Card(Record):
    """Contents of ``card.json`` of a shipped model.

    Attributes:
        name: Name of its folder.
        arch: The subnet that it is.
        top1: Share of the test images that it got right.
        top5: Share of the test images whose class was among its five best.
        top1_interval: 95 % interval of ``top1``.
        images: Test images.
        macs: Multiply-accumulates at its resolution.
        params: Parameters.
        peak_activation_bytes: Largest float32 activations alive at once.
        resolution: Side of the images in pixels.
        data: Name of the data set.
        classes: Class names in the order of the logits.
        mean: Mean of each channel of images in [0, 1].
        std: Standard deviation of each channel.
        crop_ratio: Share of the side that evaluation shows.
        versions: Of Python and packages.
        latency_ms: Median latency of one image as the model ships.
        latency_mad_ms: Median absolute deviation of it.
        latency_p90_ms: Ninth decile of it.
        target: What the latency was measured on.
        predicted_top1: What the search believed.
        predicted_top1_std: How sure it was.
        predicted_latency_ms: What the latency model said.
        valid_top1: Measured on the validation images.
        files: Size and digest of each other file of the folder.
        checks: What was compared before it shipped.
        blueprint: The network.
        tuned_epochs: Passes that it was trained for alone, after it was cut out and before it
            shipped; None where it ships as the supernet left it.
        finetuned_from: Name of the model that it was fine-tuned from.
        finetune_epochs: Passes of fine-tuning.
        finetune_settings: How.
    """

    name: PlainName
    arch: ArchField
    top1: Fraction
    top5: Fraction | None = None
    top1_interval: tuple[Fraction, Fraction] | None = None
    images: Positive | None = None
    macs: Positive
    params: Positive
    peak_activation_bytes: Positive
    resolution: Pixels
    data: str
    classes: tuple[str, ...]
    mean: Rgb
    std: Deviations
    crop_ratio: Annotated[float, Field(ge=0.01, le=1)]
    versions: dict[str, str]
    latency_ms: Milliseconds
    latency_mad_ms: Spread
    latency_p90_ms: Milliseconds
    target: DeviceFacts
    predicted_top1: Predicted | None = None
    predicted_top1_std: Spread | None = None
    predicted_latency_ms: Milliseconds | None = None
    valid_top1: Fraction | None = None
    files: dict[str, ShippedFile]
    checks: dict[str, bool | float]
    blueprint: BlueprintField
    tuned_epochs: Spread | None = None
    finetuned_from: PlainName | None = None
    finetune_epochs: Positive | None = None
    finetune_settings: FinetuneSettings | None = None


class Tuned(Record):
    """Contents of ``tuned.json``: a winner that was trained alone before it ships.

    Attributes:
        arch: The subnet that it was.
        epochs: Passes over the training images.
        seconds: That they took.
        valid_top1_before: Share of the validation images that it got right as the supernet left
            it.
        valid_top1: Likewise now.
    """

    arch: ArchField
    epochs: Spread
    seconds: Spread
    valid_top1_before: Fraction
    valid_top1: Fraction

    @property
    def is_better(self) -> bool:
        """Whether it ships as it is now."""
        return self.valid_top1 > self.valid_top1_before


class FinetuneStart(Record):
    """A model whose fine-tuning was begun.

    Attributes:
        weights: Digest of the weights that it starts from, in hexadecimal.
        finetune_settings: How.
    """

    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    finetune_settings: FinetuneSettings


class BaselineStart(Record):
    """An architecture whose training alone was begun.

    Attributes:
        arch: The architecture.
        budget_s: Time that its training is given.
    """

    arch: ArchField
    budget_s: Seconds


class Baseline(Record):
    """Contents of ``baselines/<name>.json``: an architecture trained alone.

    Attributes:
        name: Name of the model of the same architecture.
        arch: The architecture.
        top1: Share of the test images that it got right.
        top1_interval: 95 % interval of ``top1``.
        top5: Share of the test images whose class was among its five best.
        images: Test images.
        epochs: Passes over the training images.
        seconds: Time of its training.
        budget_s: Time that its training was given.
        seed: Seed of weights and order.
        resolution: Side of the images in pixels.
        processes: Processes that trained it.
        threads: Threads of each.
        versions: Of Python and packages.
    """

    name: PlainName
    arch: ArchField
    top1: Fraction
    top1_interval: tuple[Fraction, Fraction]
    top5: Fraction
    images: Positive
    epochs: Epochs
    seconds: Seconds
    budget_s: Seconds
    seed: int
    resolution: Pixels
    processes: Positive
    threads: Positive
    versions: dict[str, str]
