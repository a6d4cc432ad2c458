"""What is measured and found on the way: evaluations, fronts, answers, confirmed candidates."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from onceforall.artifacts.record import (
    ArchField,
    Count,
    Fraction,
    Loss,
    Milliseconds,
    Pixels,
    PlainName,
    Positive,
    Predicted,
    Record,
    Seconds,
    Spread,
)


class Evaluation(Record):
    """Measured accuracy of one subnet on the validation images.

    Attributes:
        arch: The subnet.
        top1: Share of images that it got right.
        top5: Share of images whose class was among its five best.
        loss: Mean cross-entropy.
        images: Images that it was measured on.
        macs: Multiply-accumulates at its resolution.
        resolution: Side of the images in pixels.
        refines: True where a search asked for it; None of a random sample.
    """

    arch: ArchField
    top1: Fraction
    top5: Fraction
    loss: Loss
    images: Positive
    macs: Positive
    resolution: Pixels
    refines: bool | None = None


class Found(Record):
    """A subnet that a search found, with its exact and predicted costs.

    Latencies on further devices stand beside ``latency_ms`` as ``latency_ms@NAME``.

    Attributes:
        arch: The subnet.
        predicted_top1: Accuracy that is believed of it.
        cautious_top1: The same less the standard deviations of the search's caution.
        predicted_top1_std: Standard deviation of the prediction; None of a published predictor.
        macs: Multiply-accumulates at its resolution.
        params: Parameters.
        peak_activation_bytes: Largest float32 activations alive at once.
        latency_ms: Predicted latency; None where no device was named.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    arch: ArchField
    predicted_top1: Predicted
    cautious_top1: Predicted | None = None
    predicted_top1_std: Spread | None = None
    macs: Positive
    params: Positive
    peak_activation_bytes: Positive | None = None
    latency_ms: float | None = None

    @property
    def elsewhere_ms(self) -> dict[str, float]:
        """Return the latency on each further device by its name."""
        found = self.__pydantic_extra__.items()
        marked = {name.partition("@"): ms for name, ms in found}
        return {device: ms for (what, _, device), ms in marked.items() if what == "latency_ms"}


class FrontPoint(Found):
    """A subnet of a predicted front."""

    cautious_top1: Predicted
    predicted_top1_std: Spread
    latency_ms: Milliseconds


class FrontFile(Record):
    """Contents of ``search/front.json``: a predicted front, by latency ascending.

    Attributes:
        objectives: What was minimised, in order.
        limits: Upper bounds by name.
        caution: Standard deviations taken off the predictions.
        points: Subnets that no other dominates.
        hypervolume: Of the front of every generation.
        reference: The hypervolume's reference point.
        evaluations: Archs that the search looked at.
    """

    objectives: tuple[str, ...]
    limits: dict[str, float]
    caution: Spread = 0.0
    points: tuple[FrontPoint, ...]
    hypervolume: tuple[float, ...]
    reference: tuple[float, ...]
    evaluations: Count


class Answer(Found):
    """What ``ofa search`` prints: the best subnet under limits.

    Attributes:
        limits: Upper bounds that it keeps, by name.
        evaluations: Archs that the search looked at.
        seconds: Time of the search.
        name: The arch in short notation.
        scale: How the predicted top-1 compares with measured accuracy, in words; of published
            predictors.
    """

    limits: dict[str, float]
    evaluations: Count
    seconds: Seconds
    name: str | None = None
    scale: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; scripts find ``latency_ms`` in it, known or not."""
        return {"latency_ms": None, **super().to_json()}


class Confirmed(FrontPoint):
    """A candidate of the front, measured.

    Attributes:
        latency_ms: Measured latency.
        predicted_latency_ms: What the latency model said.
        valid_top1: Share of the validation images that it got right.
        valid_loss: Mean cross-entropy on them.
        valid_images: Validation images.
    """

    predicted_latency_ms: Milliseconds
    valid_top1: Fraction
    valid_loss: Loss
    valid_images: Positive


class ConfirmedFile(Record):
    """Contents of ``search/confirmed.json``.

    Attributes:
        points: Candidates that were measured.
    """

    points: tuple[Confirmed, ...]


class Failed(Record):
    """A model that could not be proven.

    Attributes:
        name: Name of its folder.
        problem: What is wrong with it.
    """

    name: PlainName
    problem: str


class FailedFile(Record):
    """Contents of ``search/failed.json``.

    Attributes:
        models: What did not ship.
    """

    models: tuple[Failed, ...]


class Rejected(Record):
    """Contents of ``search/rejected.json``: the latency in ms of models that broke the limit."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Milliseconds] = Field(init=False)

    @property
    def latency_ms(self) -> dict[str, float]:
        """Return the latency of each by its name."""
        return dict(self.__pydantic_extra__)
