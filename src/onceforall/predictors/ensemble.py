"""The two regressors behind the accuracy predictor: small MLPs trained at once, and ridge.

All members of an ensemble are trained together: their weights are stacked, a layer is one batched
matrix product. Each member leaves out one part of the samples, which later shows how far off it
is on samples that it has not seen.

Shape legend: ``N`` samples, ``F`` features, ``M`` members, ``H`` hidden units.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

HIDDEN_UNITS = 64
NUM_STEPS = 300
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 1.0
_WARM_UP_STEPS = 20
_MAX_BATCH = 512
_CHUNK = 4096
RIDGE_PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


def train_members(
    x_NF: Tensor, y_N: Tensor, keep_MN: Tensor, *, generator: torch.Generator
) -> dict[str, Tensor]:
    """Train one MLP for each row of ``keep_MN`` by AdamW on its squared error.

    Args:
        x_NF: Features, float32, centred, each row of a norm near 4.
        y_N: Targets, float32, standardised.
        keep_MN: 1 where a member learns from a sample, 0 where it leaves it out; float32.
        generator: Source of the initial weights and batches.

    Returns:
        The members' weights: ``weight0 (M, F, H)``, ``bias0 (M, 1, H)`` and so on.
    """
    members, features = keep_MN.shape[0], x_NF.shape[1]
    widths = (features, HIDDEN_UNITS, HIDDEN_UNITS, 1)
    weights: dict[str, Tensor] = {}
    for i in range(3):
        shape = (members, widths[i], widths[i + 1])
        weights[f"weight{i}"] = torch.randn(shape, generator=generator) * widths[i] ** -0.5
        weights[f"bias{i}"] = torch.zeros(members, 1, widths[i + 1])
    with _one_thread():
        _optimise(weights, x_NF, y_N, keep_MN, generator)
    return {name: weight.detach() for name, weight in weights.items()}


def _optimise(
    weights: dict[str, Tensor],
    x_NF: Tensor,
    y_N: Tensor,
    keep_MN: Tensor,
    generator: torch.Generator,
) -> None:
    """Change ``weights`` in place until the schedule ends."""
    parameters = [w.requires_grad_() for w in weights.values()]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    for step in range(NUM_STEPS):
        rate = LEARNING_RATE * _schedule(step)
        optimizer.param_groups[0]["lr"] = rate
        picked = slice(None)
        if len(x_NF) > _MAX_BATCH:
            picked = torch.randperm(len(x_NF), generator=generator)[:_MAX_BATCH]  # type: ignore[assignment]
        error_MB = run_members(weights, x_NF[picked]) - y_N[picked]
        # The sum over members: each has its own gradient, as if trained alone.
        loss = (error_MB.square() * keep_MN[:, picked]).mean(1).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, weight in weights.items():
                if name.startswith("weight"):
                    weight.mul_(1 - rate * WEIGHT_DECAY)
        optimizer.step()


def run_members(weights: Mapping[str, Tensor], x_NF: Tensor) -> Tensor:
    """Return every member's output ``(M, N)``."""
    h_MNH = x_NF.expand(weights["weight0"].shape[0], -1, -1)
    for i in range(3):
        if i:
            h_MNH = F.silu(h_MNH)
        h_MNH = torch.baddbmm(weights[f"bias{i}"], h_MNH, weights[f"weight{i}"])
    return h_MNH[..., 0]


def check_members(weights: Mapping[str, Tensor], num_features: int) -> None:
    """Raise ValueError unless these are weights that :func:`train_members` may have returned."""
    widths = (num_features, HIDDEN_UNITS, HIDDEN_UNITS, 1)
    first = weights.get("weight0")
    members = 0 if first is None else len(first)
    expected = {f"weight{i}": (members, widths[i], widths[i + 1]) for i in range(3)}
    expected |= {f"bias{i}": (members, 1, widths[i + 1]) for i in range(3)}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if not members or found != expected:
        raise ValueError(f"members have shapes {found}, not {expected}")
    if any(weight.dtype != torch.float32 for weight in weights.values()):
        raise ValueError("members are not float32")


@torch.no_grad()
def predict_members(weights: Mapping[str, Tensor], x_NF: Tensor) -> Tensor:
    """Return every member's output ``(M, N)``, in chunks that stay in the caches."""
    starts = range(0, max(1, len(x_NF)), _CHUNK)
    with _one_thread():
        return torch.cat([run_members(weights, x_NF[i : i + _CHUNK]) for i in starts], dim=1)


def ridge(x_NF: Floats, y_N: Floats, penalties: Sequence[float]) -> Floats:
    """Fit ridge regression for each of ``P`` penalties.

    Returns:
        Coefficients ``(P, F + 1)``; the intercept is last and not penalised.
    """
    mean_F, mean = x_NF.mean(0), y_N.mean()
    x, y = torch.from_numpy(x_NF - mean_F), torch.from_numpy(y_N - mean)
    with _one_thread():
        values_F, axes_FF = torch.linalg.eigh(x.T @ x)
        projected_F = axes_FF.T @ (x.T @ y)
        shrunk_PF = projected_F / (values_F.clamp(min=0) + torch.tensor(penalties)[:, None])
        slope_PF = (shrunk_PF @ axes_FF.T).numpy()
    return np.column_stack([slope_PF, mean - (slope_PF * mean_F).sum(1)])


def run_ridge(coefficients: Floats, x_NF: Floats) -> Floats:
    """Return the predictions ``(N,)``."""
    result: Floats = x_NF @ coefficients[:-1] + coefficients[-1]
    return result


def tuned_ridge(x_NF: Floats, y_N: Floats, fold_N: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Choose the penalty by cross-validation.

    Returns:
        Coefficients fitted on all samples, and each sample's prediction by the fit that left its
        fold out.
    """
    unseen_PN = np.empty((len(RIDGE_PENALTIES), len(y_N)))
    for fold in range(int(fold_N.max()) + 1):
        out = fold_N == fold
        for guess_N, fit in zip(
            unseen_PN, ridge(x_NF[~out], y_N[~out], RIDGE_PENALTIES), strict=True
        ):
            guess_N[out] = run_ridge(fit, x_NF[out])
    best = int(np.square(unseen_PN - y_N).mean(1).argmin())
    return ridge(x_NF, y_N, RIDGE_PENALTIES[best : best + 1])[0], unseen_PN[best]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread: so small products gain nothing from more, and sums keep their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _schedule(step: int) -> float:
    """Return the learning rate over its largest: a short linear rise, then a half cosine."""
    rise = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return rise * 0.5 * (1 + math.cos(math.pi * step / NUM_STEPS))
