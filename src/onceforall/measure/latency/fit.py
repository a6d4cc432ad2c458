"""What the time of a layer is made of, and how much each part weighs.

The features of a network are the sums of its layers' features, and its latency is their weighted
sum. So a latency stays a sum over layers, which whole populations evaluate as a gather.

Shape legend: ``N`` networks, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from onceforall.blueprint import (
    Blueprint,
    Bottleneck,
    Conv,
    FusedMBConv,
    GlobalPool,
    Identity,
    Layer,
    Linear,
    MaxPool,
    MBConv,
    Residual,
    output_size,
)
from onceforall.measure.costs import sized_layers
from onceforall.measure.latency.table import Table, lookup
from onceforall.measure.ranking import kendall_tau
from onceforall.supernets.units import (
    bottleneck_units,
    fused_units,
    mbconv_units,
    residual_units,
    shortcut_unit,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

FEATURES = (
    "table_ms",  # the layer alone, measured
    "narrow_ms",  # the same, of layers with few channels: runtimes leave their layout for them
    "pointwise_macs",  # of 1x1 convolutions and fully connected layers
    "depthwise_macs",  # of grouped convolutions
    "spatial_macs",  # of all other convolutions
    "moved_numbers",  # read and written by convolutions and additions
    "weight_numbers",  # read from memory
    "curved_numbers",  # through activations that are more than a clip
    "gated_numbers",  # pooled and scaled by squeeze-excite
    "pooled_pixels",  # under pooling layers (their records name no channels)
    "operations",  # convolutions: each has an overhead
    "networks",  # 1 for the classifier: the overhead of a whole network
)
# Channels that runtimes lay out as one block; images have fewer, and a kernel of their own.
_BLOCK = 16
_IMAGE_CHANNELS = 3
_CURVED = ("h_swish", "silu", "sigmoid", "tanh", "h_sigmoid")
# Pull of the prior, for relative errors: 2 % of noise against 30 % of doubt about each weight.
_RIDGE = 0.005
# Fewer networks do not say how slow the machine was when they were measured.
_FEWEST_OF_CALL = 8
_PACE_ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyReport:
    """How well the model predicts whole networks that it was not fitted on.

    What they took is divided by the pace of the machine in the call that measured them.

    Attributes:
        kendall_tau: Rank correlation of predicted and measured latencies.
        median_error: Median relative error.
        p90_error: 90th percentile of the relative error.
        noise: Median relative standard error of the measurements themselves.
        macs_kendall_tau: Rank correlation that MACs alone reach.
        num_networks: Networks measured; each was left out of one of five fits.
        pace_spread: How much slower the machine was in the slowest measuring call than in the
            fastest; 1.00 to 1.03 on a quiet one.
    """

    kendall_tau: float
    median_error: float
    p90_error: float
    noise: float
    macs_kendall_tau: float
    num_networks: int
    pace_spread: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def layer_features(layer: Layer, size: int, table_ms: float) -> Floats:
    """Return the features ``(F,)`` of one layer on an input of side ``size`` pixels."""
    values = dict.fromkeys(FEATURES, 0.0)
    values["table_ms"] = table_ms
    values["narrow_ms"] = table_ms * is_narrow(layer)
    for unit, side in _convolutions(layer, size):
        after = output_size(unit, side)
        weights = unit.in_channels * unit.out_channels * unit.kernel_size**2 // unit.groups
        result = unit.out_channels * after**2
        kind = "pointwise" if unit.kernel_size == 1 else "spatial"
        kind = "depthwise" if 1 < unit.groups == unit.in_channels else kind
        values[f"{kind}_macs"] += weights * after**2
        values["moved_numbers"] += unit.in_channels * side**2 + result
        values["weight_numbers"] += weights
        values["curved_numbers"] += result * (unit.activation in _CURVED)
        values["operations"] += 1
    after = output_size(layer, size)
    if (isinstance(layer, Conv | MBConv | FusedMBConv) and layer.residual) or isinstance(
        layer, Bottleneck | Residual
    ):
        values["moved_numbers"] += 3 * layer.out_channels * after**2
    if isinstance(layer, MBConv) and layer.se_channels:
        values["gated_numbers"] = layer.mid_channels * after**2
    if isinstance(layer, MaxPool | GlobalPool):
        values["pooled_pixels"] = size**2
    values["networks"] = float(isinstance(layer, Linear))
    return np.array(list(values.values()))


def is_narrow(layer: Layer) -> bool:
    """Return whether a layer reads or gives fewer channels than runtimes lay out as one block."""
    if isinstance(layer, Identity | MaxPool | GlobalPool | Linear):
        return False
    reads_images = layer.in_channels == _IMAGE_CHANNELS
    return layer.out_channels < _BLOCK or (layer.in_channels < _BLOCK and not reads_images)


def network_features(table: Table, plan: Blueprint, resolution: int) -> Floats:
    """Return the features ``(F,)`` of a whole network; what the table lacks counts 0 there."""
    layers = [(layer, size) for layer, size, _ in sized_layers(plan, resolution)]
    rows = [
        layer_features(layer, size, lookup(table, layer, size) or 0.0) for layer, size in layers
    ]
    result: Floats = np.sum(rows, axis=0)
    return result


def fit_weights(features_NF: Floats, latency_N: Floats) -> Floats:
    """Return the non-negative weights ``(F,)`` that predict measured latencies best.

    Least squares on relative errors, with far-off measurements weighted down and a weak pull
    towards "the table as it is, nothing else". No weight is negative, so a network never
    gets faster by more of anything.

    Args:
        features_NF: Features of whole networks.
        latency_N: Their measured latencies, in milliseconds.
    """
    mean_F = np.where(features_NF.mean(0) > 0, features_NF.mean(0), 1.0)
    # Columns are scaled to shares of the latency; a weight is then a share too.
    shares_NF = features_NF / mean_F * latency_N.mean() / latency_N[:, None]
    prior_F = np.zeros(len(FEATURES))
    prior_F[0] = mean_F[0] / latency_N.mean()
    trust_N = np.ones(len(latency_N))
    for _ in range(10):
        weights_F = _nonnegative_least_squares(shares_NF, trust_N, prior_F)
        error_N = np.abs(shares_NF @ weights_F - 1)
        limit = 2.5 * max(1.4826 * float(np.median(error_N)), 1e-6)
        trust_N = np.minimum(1.0, np.square(limit / np.maximum(error_N, 1e-12)))
    result: Floats = weights_F * latency_N.mean() / mean_F
    return result


def fit_with_pace(
    features_NF: Floats, latency_N: Floats, call_N: Integers, *, known_C: Booleans | None = None
) -> tuple[Floats, Floats]:
    """Fit the weights, and how slow the machine was in each measuring call.

    A shared machine may need half as much time again in one call as in the next, and networks of
    many small operators feel that more than the sentinel does. Every call measures random
    networks: by what all of them are slower than predicted, the machine was.

    Args:
        features_NF: Features of whole networks.
        latency_N: Their measured milliseconds.
        call_N: Number of the call that each was measured in, from 0.
        known_C: Calls whose pace is fitted; by default those of 8 networks or more.

    Returns:
        Weights ``(F,)``, and the pace of each call ``(C,)``: its latencies over those of the call
        of the median network. 1 of calls whose pace is not fitted.
    """
    if known_C is None:
        known_C = _known(call_N)
    pace_C = np.ones(len(known_C))
    for _ in range(_PACE_ROUNDS):
        weights_F = fit_weights(features_NF, latency_N / pace_C[call_N])
        slower_N = latency_N / (features_NF @ weights_F)
        for call in np.flatnonzero(known_C):
            pace_C[call] = np.median(slower_N[call_N == call])
        pace_C = np.where(known_C, pace_C / np.median(pace_C[call_N]), 1.0)
    return fit_weights(features_NF, latency_N / pace_C[call_N]), pace_C


def _known(call_N: Integers) -> Booleans:
    """Return which calls have enough networks to say how slow the machine was."""
    known_C: Booleans = np.bincount(call_N) >= _FEWEST_OF_CALL
    return known_C if known_C.sum() > 1 else np.zeros_like(known_C)


def fit_and_validate(
    features_NF: Floats,
    latency_N: Floats,
    *,
    call_N: Integers,
    macs_N: Sequence[int],
    noise: float,
) -> tuple[dict[str, float], LatencyReport]:
    """Fit the weights to all networks; report on each by a fit that left it out.

    Args:
        features_NF: Features of whole networks, in random order.
        latency_N: Their measured milliseconds.
        call_N: Number of the call that each was measured in, from 0.
        macs_N: Their multiply-accumulates.
        noise: Median relative standard error of the measurements.
    """
    known_C = _known(call_N)
    weights_F, pace_C = fit_with_pace(features_NF, latency_N, call_N, known_C=known_C)
    steady_N = latency_N / pace_C[call_N]
    unseen_N = np.empty(len(latency_N))
    for fold in range(5):
        out = np.arange(len(latency_N)) % 5 == fold
        fold_F, own_C = fit_with_pace(
            features_NF[~out], latency_N[~out], call_N[~out], known_C=known_C
        )
        # Which call is the median network's may differ from fold to fold: one unit for all.
        unit = np.median((own_C / pace_C)[call_N[~out]])
        unseen_N[out] = features_NF[out] @ fold_F * unit
    error_N = np.abs(unseen_N / steady_N - 1)
    report = LatencyReport(
        kendall_tau=kendall_tau(unseen_N, steady_N),
        median_error=float(np.median(error_N)),
        p90_error=float(np.quantile(error_N, 0.9)),
        noise=noise,
        macs_kendall_tau=kendall_tau(macs_N, steady_N),
        num_networks=len(latency_N),
        pace_spread=float(pace_C.max() / pace_C.min()),
    )
    return dict(zip(FEATURES, weights_F.tolist(), strict=True)), report


def _nonnegative_least_squares(x_NF: Floats, trust_N: Floats, prior_F: Floats) -> Floats:
    """Minimise ``trust * (x w - 1)**2 + ridge * (w - prior)**2`` over ``w >= 0``.

    Source: Lawson and Hanson, *Solving Least Squares Problems*, 1974, chapter 23.
    """
    gram = (x_NF * trust_N[:, None]).T @ x_NF + _RIDGE * np.eye(len(prior_F))
    goal = x_NF.T @ trust_N + _RIDGE * prior_F
    weights_F, free_F = np.zeros(len(prior_F)), np.zeros(len(prior_F), dtype=bool)
    while True:
        rise_F = np.where(free_F, 0.0, goal - gram @ weights_F)
        if rise_F.max() < 1e-9:
            return weights_F
        free_F[rise_F.argmax()] = True
        while True:
            best_F = np.zeros(len(prior_F))
            best_F[free_F] = np.linalg.solve(gram[np.ix_(free_F, free_F)], goal[free_F])
            blocked = free_F & (best_F <= 0)
            if not blocked.any():
                break
            # Go towards the best point until the first weight reaches 0; that one stays there.
            room = weights_F[blocked] / (weights_F[blocked] - best_F[blocked])
            weights_F += room.min() * (best_F - weights_F)
            free_F &= weights_F > 1e-12
            weights_F[~free_F] = 0.0
        weights_F = best_F


def _convolutions(layer: Layer, size: int) -> Iterator[tuple[Conv, int]]:
    """Yield the convolutions of a layer, each with the side of its input."""
    after = output_size(layer, size)
    match layer:
        case Conv():
            yield layer, size
        case MBConv():
            expand, depthwise, project = mbconv_units(layer)
            if layer.has_expansion:
                yield expand, size
            yield depthwise, size
            if layer.se_channels:
                mid, hidden = layer.mid_channels, layer.se_channels
                yield Conv(in_channels=mid, out_channels=hidden), 1
                yield Conv(in_channels=hidden, out_channels=mid, activation="h_sigmoid"), 1
            yield project, after
        case Bottleneck():
            reduce, middle, restore = bottleneck_units(layer)
            yield reduce, size
            yield middle, size
            yield restore, after
            yield from _shortcut_convolution(layer, size)
        case Residual():
            first, second = residual_units(layer)
            yield first, size
            yield second, after
            yield from _shortcut_convolution(layer, size)
        case FusedMBConv():
            expand, project = fused_units(layer)
            yield expand, size
            yield project, after
        case Linear():
            yield (
                Conv(
                    in_channels=layer.in_features,
                    out_channels=layer.out_features,
                    activation="none",
                ),
                1,
            )
        case Identity() | MaxPool() | GlobalPool():
            return
        case _ as never:
            assert_never(never)


def _shortcut_convolution(layer: Bottleneck | Residual, size: int) -> Iterator[tuple[Conv, int]]:
    if layer.downsample != "none":
        pooled = layer.downsample == "avgpool_conv"
        yield shortcut_unit(layer), output_size(layer, size) if pooled else size
