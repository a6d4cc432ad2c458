"""What a report shows of subnets and models, from the records that a run writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onceforall.arch import Arch
from onceforall.artifacts import Baseline, Card, Evaluation, Found
from onceforall.measure.comparison import Pair, pair_of, top1_share
from onceforall.measure.proportion import Share
from onceforall.report import numbers

COSTS = ("latency_ms", "macs", "params")
# Deployment ships nothing above this; the report says which checks hold, so it needs the bound.
MAX_RELATIVE_ERROR = 1e-4
MAX_ROUNDING_ERROR = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """A subnet that was evaluated, found by the search, or shipped.

    Attributes:
        label: Short words that name it.
        arch: The arch.
        top1: Measured accuracy, a fraction.
        predicted_top1: Predicted accuracy, a fraction.
        predicted_std: Standard deviation of the prediction.
        predicted_latency_ms: Predicted latency, where it was measured too.
        costs: What is known of ``latency_ms``, ``macs`` and ``params``.
    """

    label: str
    arch: Arch
    top1: float | None
    predicted_top1: float | None
    predicted_std: float | None
    predicted_latency_ms: float | None
    costs: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of a model.

    Attributes:
        key: Name in the card.
        value: The measured error, or whether it holds.
    """

    key: str
    value: float | bool

    @property
    def passed(self) -> bool:
        """Return whether it holds."""
        if isinstance(self.value, bool):
            return self.value
        return self.value <= self.allowed

    @property
    def allowed(self) -> float:
        """Return the largest relative error that may be: of another runtime, or of the same."""
        return MAX_RELATIVE_ERROR if self.key.startswith("onnx") else MAX_ROUNDING_ERROR


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A shipped model.

    Attributes:
        folder: Name of its folder below ``models/``.
        card: Its card.
        subnet: What charts show of it.
        pair: The model beside the same architecture trained alone, if that is known.
    """

    folder: str
    card: Card
    subnet: Subnet
    pair: Pair | None

    @property
    def share(self) -> Share | None:
        """Return the test top-1 with the images that it was counted on."""
        return top1_share(self.card)

    @property
    def top1(self) -> str:
        """Return the test top-1 in words, with its noise where the images are known."""
        return numbers.top1(self.share, self.card.top1)

    @property
    def onnx_bytes(self) -> int | None:
        """Return the size of ``model.onnx``, if the card tells."""
        file = self.card.files.get("model.onnx")
        return None if file is None else file.bytes

    @property
    def checks(self) -> tuple[Check, ...]:
        """Return what was checked, of two checks on one thing the one that says more."""
        given = self.card.checks
        return tuple(Check(key=k, value=given[k]) for k in given if not _says_less(k, given))

    @property
    def verified(self) -> bool:
        """Return whether something was checked and everything holds."""
        return bool(self.checks) and all(check.passed for check in self.checks)


def read_subnet(record: Evaluation | Found | Card) -> Subnet:
    """Return what charts show of a subnet; candidates count with their validation images."""
    known = dict(record)
    return Subnet(
        label=record.name if isinstance(record, Card) else str(record.arch),
        arch=record.arch,
        top1=known.get("top1", known.get("valid_top1")),
        predicted_top1=known.get("predicted_top1"),
        predicted_std=known.get("predicted_top1_std"),
        predicted_latency_ms=known.get("predicted_latency_ms"),
        costs={cost: known[cost] for cost in COSTS if known.get(cost) is not None},
    )


def read_model(card: Card, *, folder: str, alone: Baseline | None = None) -> Model:
    """Return the model of a card.

    Args:
        card: The card.
        folder: Name of the model's folder.
        alone: What is known of an architecture trained alone; of another one it does not count.
    """
    return Model(folder=folder, card=card, subnet=read_subnet(card), pair=pair_of(card, alone))


def _says_less(key: str, checks: Mapping[str, float | bool]) -> bool:
    """Say whether the card compares the same thing bit for bit and by its error, and this is less.

    Where the bits are equal the error says nothing; where they are not, the error decides.
    """
    name, _, kind = key.partition("_")
    equal = checks.get(f"{name}_bitwise")
    if kind == "relative_error":
        return equal is True
    return kind == "bitwise" and equal is False and f"{name}_relative_error" in checks
