"""AccuracyPredictor: from an arch's features to its accuracy, with an honest interval.

An ensemble of small MLPs and a ridge regression are blended by cross-validation: where accuracies
are measured well the MLPs see what is not additive, where they are noisy ridge is safer. The
spread of predictions is scaled so that 90 % intervals cover 90 % of samples left out.

Shape legend: ``N`` archs, ``F`` features, ``M`` members.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from onceforall import files
from onceforall.encoding import Encoding, Rows
from onceforall.errors import CheckpointError, ConfigError
from onceforall.measure.ranking import kendall_tau
from onceforall.predictors.ensemble import (
    Floats,
    check_members,
    predict_members,
    run_ridge,
    train_members,
    tuned_ridge,
)
from onceforall.reading import MAX_BINARY_BYTES, is_number, parse_json, read_bounded

MIN_SAMPLES = 10
# An honest predictor may be somewhat below 0 or above 1 at the ends of its space.
MOST_TOP1 = 10.0
_MAX_FOLDS = 8
# Half the width of a 90 % interval in standard deviations, for a normal distribution.
Z90 = 1.6449
_FORMAT = "onceforall.accuracy-predictor.1"
_KEY = "onceforall"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorReport:
    """How good a predictor is on archs that it has not seen.

    Attributes:
        kendall_tau: Rank correlation (tau-b) of predicted and measured accuracies.
        rmse: Root mean squared error, as a fraction of 1.
        interval_coverage: Share of measured accuracies inside their 90 % interval.
        interval_width: Mean full width of these intervals, as a fraction of 1.
        ridge_kendall_tau: The same rank correlation for the ridge baseline alone.
        ridge_rmse: The same error for the ridge baseline alone.
        mlp_share: Weight of the MLPs in the blend, 0..1.
        num_train: Archs fitted on.
        num_test: Archs left out.
    """

    kendall_tau: float
    rmse: float
    interval_coverage: float
    interval_width: float
    ridge_kendall_tau: float
    ridge_rmse: float
    mlp_share: float
    num_train: int
    num_test: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccuracyPredictor:
    """A fitted predictor.

    Attributes:
        members: Weights of the MLPs (see ``ensemble.train_members``).
        ridge: Ridge coefficients ``(F + 1,)``, intercept last.
        feature_mean: Mean features ``(F,)`` of the training archs.
        feature_scale: Number that centred features are divided by.
        accuracy_mean: Mean training accuracy.
        accuracy_scale: Standard deviation of the training accuracies.
        mlp_share: Weight of the MLPs in the blend, 0..1; ridge has the rest.
        error: Cross-validated error of the blend, in units of ``accuracy_scale``.
        typical_spread: Usual standard deviation between the MLPs, in the same units: where they
            differ more, an arch is unlike those fitted on, and its interval is wider.
        interval_scale: Factor that makes 90 % intervals cover 90 %.
        num_train: Archs fitted on.
    """

    members: Mapping[str, Tensor]
    ridge: Floats
    feature_mean: Floats
    feature_scale: float
    accuracy_mean: float
    accuracy_scale: float
    mlp_share: float
    error: float
    typical_spread: float
    interval_scale: float
    num_train: int

    @classmethod
    def fit(cls, features: ArrayLike, accuracies: ArrayLike, *, seed: int = 0) -> AccuracyPredictor:
        """Fit a predictor.

        Args:
            features: ``(N, F)`` features of the archs, one-hot for instance; N is at least 10.
            accuracies: ``(N,)`` measured accuracies, fractions in 0..1.
            seed: Seed of folds, initial weights and batches: same seed, same predictor.

        Raises:
            ConfigError: If the shapes do not fit, there are too few archs, or a number is not
                finite.
        """
        x_NF, y_N = _checked(features, accuracies)
        generator = torch.Generator().manual_seed(seed)
        num_folds = min(_MAX_FOLDS, len(y_N))
        shuffled = torch.randperm(len(y_N), generator=generator)
        fold_N = (shuffled % num_folds).numpy()

        mean_F = x_NF.mean(0)
        # Rows of norm 4 on average, however many features: the MLPs' settings count on it.
        scale = float(np.sqrt(np.square(x_NF - mean_F).sum(1).mean())) / 4 or 1.0
        mean, spread = float(y_N.mean()), float(y_N.std()) or 1.0
        x_NF, y_N = (x_NF - mean_F) / scale, (y_N - mean) / spread

        x = torch.from_numpy(x_NF).float()
        keep_MN = torch.from_numpy(fold_N != np.arange(num_folds)[:, None]).float()
        members = train_members(x, torch.from_numpy(y_N).float(), keep_MN, generator=generator)
        mlp_MN = predict_members(members, x).double().numpy()
        unseen_mlp_N = mlp_MN[fold_N, np.arange(len(y_N))]
        coefficients, unseen_ridge_N = tuned_ridge(x_NF, y_N, fold_N)

        share = _best_share(unseen_mlp_N, unseen_ridge_N, y_N)
        residual_N = np.abs(y_N - share * unseen_mlp_N - (1 - share) * unseen_ridge_N)
        error = float(np.sqrt(np.square(residual_N).mean())) or 1e-9
        # The conformal quantile of residuals over the errors that will be quoted.
        typical_spread = float(np.sqrt(np.square(mlp_MN.std(0)).mean())) or 1.0
        score_N = residual_N / (error * _strangeness(mlp_MN, typical_spread))
        rank = min(1.0, 0.9 * (len(y_N) + 1) / len(y_N))
        return cls(
            members=members,
            ridge=coefficients,
            feature_mean=mean_F,
            feature_scale=scale,
            accuracy_mean=mean,
            accuracy_scale=spread,
            mlp_share=share,
            error=error,
            typical_spread=typical_spread,
            interval_scale=float(np.quantile(score_N, rank)) / Z90,
            num_train=len(y_N),
        )

    def predict(self, features: ArrayLike) -> tuple[Floats, Floats]:
        """Predict accuracies.

        Args:
            features: ``(N, F)`` features of the archs.

        Returns:
            Mean and standard deviation, ``(N,)`` each, as fractions of 1. The interval
            ``mean +- Z90 * std`` is meant to hold 90 % of the measured accuracies.

        Raises:
            ConfigError: If the number of features is not the one fitted on.
            CheckpointError: If what it says is no share of images.
        """
        x_NF = self._scaled(features)
        mlp_MN = predict_members(self.members, torch.from_numpy(x_NF).float()).double().numpy()
        blend_N = self.mlp_share * mlp_MN.mean(0) + (1 - self.mlp_share) * run_ridge(
            self.ridge, x_NF
        )
        std_N = self.interval_scale * self.error * _strangeness(mlp_MN, self.typical_spread)
        mean_N = self.accuracy_mean + self.accuracy_scale * blend_N
        if not (np.abs(mean_N) <= MOST_TOP1).all():
            raise CheckpointError(
                f"the accuracy predictor says top-1 {np.abs(mean_N).max():g}, which is no share of "
                "images: its file is damaged"
            )
        return mean_N, self.accuracy_scale * std_N

    def on_rows(self, encoding: Encoding) -> Callable[[Rows], Floats]:
        """Return the function from rows ``(N, G)`` of an encoding to predicted top-1 ``(N,)``."""
        return lambda rows: self.predict(encoding.features(rows))[0]

    def predict_ridge(self, features: ArrayLike) -> Floats:
        """Predict with the ridge baseline alone, ``(N,)``."""
        ridge_N = run_ridge(self.ridge, self._scaled(features))
        return self.accuracy_mean + self.accuracy_scale * ridge_N

    def report(self, features: ArrayLike, accuracies: ArrayLike) -> PredictorReport:
        """Compare predictions with the measured accuracies of archs that were left out.

        Raises:
            ConfigError: If the shapes do not fit.
        """
        y_N = np.asarray(accuracies, dtype=np.float64)
        mean_N, std_N = self.predict(features)
        ridge_N = self.predict_ridge(features)
        if mean_N.shape != y_N.shape or not len(y_N):
            raise ConfigError(f"{len(mean_N)} archs to report on, but {y_N.shape} accuracies")
        return PredictorReport(
            kendall_tau=kendall_tau(mean_N, y_N),
            rmse=float(np.sqrt(np.square(mean_N - y_N).mean())),
            interval_coverage=float((np.abs(mean_N - y_N) <= Z90 * std_N).mean()),
            interval_width=float(2 * Z90 * std_N.mean()),
            ridge_kendall_tau=kendall_tau(ridge_N, y_N),
            ridge_rmse=float(np.sqrt(np.square(ridge_N - y_N).mean())),
            mlp_share=self.mlp_share,
            num_train=self.num_train,
            num_test=len(y_N),
        )

    def save(self, path: Path, report: PredictorReport | None = None) -> None:
        """Write ``path`` (safetensors) and, beside it, a ``.json`` with numbers and report."""
        tensors = {name: weight.contiguous() for name, weight in self.members.items()}
        tensors["ridge"] = torch.from_numpy(self.ridge)
        tensors["feature_mean"] = torch.from_numpy(self.feature_mean)
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        described = {"format": _FORMAT, **numbers}
        # One file is enough to load; the JSON beside it is for readers. Several keys of metadata
        # would come in any order: with one, equal predictors are equal bytes.
        files.write_bytes(path, save(tensors, metadata={_KEY: json.dumps(described)}))
        described["report"] = None if report is None else report.to_json()
        files.write_json(path.with_suffix(".json"), described)

    @classmethod
    def load(cls, path: Path) -> AccuracyPredictor:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: If the file is not a predictor, or damaged.
        """
        try:
            data = read_bounded(path, MAX_BINARY_BYTES)
            tensors = load(data)
            # The header: its length in 8 bytes, then JSON.
            header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")])
            metadata = header.get("__metadata__", {})
            numbers = parse_json(metadata.get(_KEY, "{}"))
            if not isinstance(numbers, dict) or numbers.get("format") != _FORMAT:
                raise ValueError(f"no {_FORMAT}")
            _check_numbers(numbers, tensors)
        except (SafetensorError, ValueError) as error:
            raise files.damaged(path, files.reason_of(error)) from error
        return cls(
            members={k: v for k, v in tensors.items() if k[:4] in ("weig", "bias")},
            ridge=tensors["ridge"].numpy(),
            feature_mean=tensors["feature_mean"].numpy(),
            **{name: numbers[name] for name in _NUMBERS},
        )

    def _scaled(self, features: ArrayLike) -> Floats:
        x_NF = np.asarray(features, dtype=np.float64)
        if x_NF.ndim != 2 or x_NF.shape[1] != len(self.feature_mean):
            raise ConfigError(
                f"features have shape {x_NF.shape}, the predictor needs (N, "
                f"{len(self.feature_mean)})"
            )
        if not np.isfinite(x_NF).all():
            raise ConfigError("features must be finite numbers")
        scaled: Floats = (x_NF - self.feature_mean) / self.feature_scale
        return scaled


_LARGEST = 1e6
_NUMBERS = (
    "feature_scale", "accuracy_mean", "accuracy_scale", "mlp_share", "error", "typical_spread",
    "interval_scale", "num_train",
)  # fmt: skip


def _check_numbers(numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a number is none, or tensors do not fit one another."""
    for name in _NUMBERS:
        value = numbers.get(name)
        low = -_LARGEST if name == "accuracy_mean" else 0
        if not is_number(value, low, _LARGEST):
            raise ValueError(f"{name} {value!r} is not a number from {low:g} to {_LARGEST:g}")
    if not numbers["feature_scale"] or not numbers["typical_spread"]:
        raise ValueError("feature_scale or typical_spread is 0")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool((tensor.abs() <= _LARGEST).all()):
            raise ValueError(f"{name} holds numbers that are none")
    mean, ridge = tensors.get("feature_mean"), tensors.get("ridge")
    if mean is None or mean.ndim != 1 or ridge is None or ridge.shape != (len(mean) + 1,):
        raise ValueError("feature_mean and ridge do not fit one another")
    check_members({k: v for k, v in tensors.items() if k[:4] in ("weig", "bias")}, len(mean))


def fit_and_report(
    features: ArrayLike, accuracies: ArrayLike, *, seed: int = 0, test_share: float = 0.2
) -> tuple[AccuracyPredictor, PredictorReport]:
    """Fit on a part and report on the rest, then fit on everything.

    Args:
        features: ``(N, F)`` features.
        accuracies: ``(N,)`` measured accuracies, fractions.
        seed: Seed of the split and of both fits.
        test_share: Share of archs left out for the report.

    Returns:
        The predictor fitted on all archs, and the report of the one fitted on the part: what is
        returned has seen more, so the report errs on the safe side.

    Raises:
        ConfigError: As :meth:`AccuracyPredictor.fit`.
    """
    x_NF, y_N = _checked(features, accuracies)
    order = np.random.default_rng(seed).permutation(len(y_N))
    num_test = max(2, round(test_share * len(y_N)))
    test, train = order[:num_test], order[num_test:]
    report = AccuracyPredictor.fit(x_NF[train], y_N[train], seed=seed).report(x_NF[test], y_N[test])
    return AccuracyPredictor.fit(x_NF, y_N, seed=seed), report


def _checked(features: ArrayLike, accuracies: ArrayLike) -> tuple[Floats, Floats]:
    x_NF = np.asarray(features, dtype=np.float64)
    y_N: NDArray[np.float64] = np.asarray(accuracies, dtype=np.float64)
    if x_NF.ndim != 2 or y_N.shape != (len(x_NF),):
        raise ConfigError(f"features {x_NF.shape} and accuracies {y_N.shape} must be (N, F), (N,)")
    if len(y_N) < MIN_SAMPLES:
        raise ConfigError(f"{len(y_N)} measured archs are too few: at least {MIN_SAMPLES}")
    if not (np.isfinite(x_NF).all() and np.isfinite(y_N).all()):
        raise ConfigError("features and accuracies must be finite numbers")
    if np.abs(y_N).max() > MOST_TOP1:
        raise ConfigError(
            f"accuracy {np.abs(y_N).max():g} is no share of images: fractions, not percent"
        )
    return x_NF, y_N


def _strangeness(mlp_MN: Floats, typical_spread: float) -> Floats:
    """Return a factor on the error, ``(N,)``: near 1 for archs like those fitted on."""
    ratio_N = mlp_MN.std(0) / typical_spread
    result: Floats = np.sqrt((1 + np.square(ratio_N)) / 2)
    return result


def _best_share(mlp_N: Floats, ridge_N: Floats, y_N: Floats) -> float:
    """Return the weight of the MLPs that makes the squared error least, within 0..1."""
    apart_N = mlp_N - ridge_N
    denominator = float(apart_N @ apart_N)
    if denominator == 0:
        return 0.0
    return float(np.clip(apart_N @ (y_N - ridge_N) / denominator, 0, 1))
