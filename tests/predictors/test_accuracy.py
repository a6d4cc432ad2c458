import ast
import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from onceforall.errors import CheckpointError, ConfigError
from onceforall.predictors.accuracy import (
    Z90,
    AccuracyPredictor,
    PredictorReport,
    fit_and_report,
)
from onceforall.predictors.ensemble import predict_members, ridge, run_ridge, train_members
from onceforall.published_archs import arch_from_published
from onceforall.supernets.families import mobilenet_v3

DATA = Path(
    os.environ.get(
        "ONCEFORALL_TEST_DATA", Path(__file__).resolve().parents[2].parent / "shared/data"
    )
)


def made_up(count: int, *, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One-hot choices; the accuracy saturates in their sum, as in real supernets."""
    rng = np.random.default_rng(seed)
    choices = rng.integers(0, 3, size=(count, 15))
    features = np.eye(3, dtype=np.float32)[choices].reshape(count, -1)
    gain = (choices * np.linspace(0.2, 1, 15)).sum(1)
    accuracy = 0.7 + 0.1 * np.tanh(gain / 3 - 2)
    return features, accuracy + noise * rng.standard_normal(count)


@pytest.fixture(scope="module")
def fitted() -> AccuracyPredictor:
    x, y = made_up(200, noise=0.001)
    return AccuracyPredictor.fit(x, y, seed=0)


def test_ranks_and_covers_archs_left_out(fitted: AccuracyPredictor) -> None:
    report = fitted.report(*made_up(2000, noise=0.001, seed=1))
    assert report.kendall_tau > 0.93
    assert report.kendall_tau > report.ridge_kendall_tau
    assert report.rmse < report.ridge_rmse
    assert 0.85 <= report.interval_coverage <= 0.95
    assert (report.num_train, report.num_test) == (200, 2000)


def test_noisy_accuracies_fall_back_on_ridge() -> None:
    x, y = made_up(200, noise=0.03)
    predictor = AccuracyPredictor.fit(x, y, seed=0)
    report = predictor.report(*made_up(1000, noise=0.0, seed=1))
    assert predictor.mlp_share < 0.5
    assert report.kendall_tau > 0.6
    # Measured accuracies keep their noise, and the interval knows it.
    assert 0.85 <= predictor.report(*made_up(2000, noise=0.03, seed=2)).interval_coverage <= 0.95


def test_the_same_seed_gives_the_same_predictor_and_nothing_global_changes() -> None:
    x, y = made_up(40, noise=0.001)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    first = AccuracyPredictor.fit(x, y, seed=3)
    torch.manual_seed(99)
    changed = torch.get_rng_state()
    second = AccuracyPredictor.fit(x, y, seed=3)
    assert torch.equal(torch.get_rng_state(), changed)
    torch.set_rng_state(state)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    other = AccuracyPredictor.fit(x, y, seed=4)
    unseen = made_up(50, noise=0, seed=9)[0]
    for a, b, c in zip(first.predict(unseen), second.predict(unseen), other.predict(unseen),
                       strict=True):  # fmt: skip
        assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_save_and_load(fitted: AccuracyPredictor, tmp_path: Path) -> None:
    path = tmp_path / "predictor.safetensors"
    x, y = made_up(100, noise=0.001, seed=5)
    report = fitted.report(x, y)
    fitted.save(path, report)
    loaded = AccuracyPredictor.load(path)
    for a, b in zip(fitted.predict(x), loaded.predict(x), strict=True):
        assert np.array_equal(a, b)
    described = json.loads(path.with_suffix(".json").read_text())
    assert PredictorReport(**described["report"]) == report
    assert described["num_train"] == 200
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "predictor.json",
        "predictor.safetensors",
    ]


def test_damaged_files_are_refused(fitted: AccuracyPredictor, tmp_path: Path) -> None:
    path = tmp_path / "predictor.safetensors"
    fitted.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"is damaged: .*the same command goes on"):
        AccuracyPredictor.load(path)
    from safetensors.torch import save

    path.write_bytes(save({"x": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"is damaged: no onceforall\.accuracy-predictor\.1"):
        AccuracyPredictor.load(path)


def test_a_whole_population_is_predicted_at_once(fitted: AccuracyPredictor) -> None:
    x = made_up(9000, noise=0, seed=3)[0]  # more than one chunk
    mean, std = fitted.predict(x)
    assert mean.shape == std.shape == (9000,) and (std > 0).all()
    one_by_one = np.concatenate([fitted.predict(row[None])[0] for row in x[:20]])
    assert np.allclose(mean[:20], one_by_one, atol=1e-6)
    assert fitted.predict(x[:0])[0].shape == (0,)


def test_constant_accuracies_and_features_are_no_trouble() -> None:
    x, _ = made_up(20, noise=0)
    mean, std = AccuracyPredictor.fit(x, np.full(20, 0.5)).predict(x)
    assert np.allclose(mean, 0.5) and np.isfinite(std).all()
    mean, _ = AccuracyPredictor.fit(np.ones((20, 4)), np.linspace(0, 1, 20)).predict(
        np.ones((1, 4))
    )
    assert mean[0] == pytest.approx(0.5, abs=0.2)


def test_fit_and_report_leaves_a_part_out() -> None:
    x, y = made_up(60, noise=0.001)
    predictor, report = fit_and_report(x, y, seed=0)
    assert (report.num_train, report.num_test, predictor.num_train) == (48, 12, 60)
    assert report.kendall_tau > 0.5


def test_wrong_shapes_and_numbers_are_refused(fitted: AccuracyPredictor) -> None:
    x, y = made_up(20, noise=0)
    with pytest.raises(ConfigError, match=r"9 measured archs are too few: at least 10"):
        AccuracyPredictor.fit(x[:9], y[:9])
    with pytest.raises(ConfigError, match=r"must be \(N, F\), \(N,\)"):
        AccuracyPredictor.fit(x, y[:-1])
    with pytest.raises(ConfigError, match="finite"):
        AccuracyPredictor.fit(x, np.where(np.arange(20) == 3, np.nan, y))
    with pytest.raises(ConfigError, match=r"the predictor needs \(N, 45\)"):
        fitted.predict(x[:, :-1])
    with pytest.raises(ConfigError, match="20 archs to report on"):
        fitted.report(x, y[:-1])


def test_ridge_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=30)
    for penalty, fit in zip((0.5, 20.0), ridge(x, y, (0.5, 20.0)), strict=True):
        # The penalised problem as ordinary least squares with extra rows, intercept free.
        rows = np.vstack([np.column_stack([x, np.ones(30)]), np.eye(5)[:4] * np.sqrt(penalty)])
        expected = np.linalg.lstsq(rows, np.append(y, np.zeros(4)), rcond=None)[0]
        assert np.allclose(fit, expected)
        assert np.allclose(run_ridge(fit, x), np.column_stack([x, np.ones(30)]) @ expected)


def test_members_are_trained_as_if_alone() -> None:
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    y = x[:, 0] * x[:, 1]
    keep = torch.ones(2, 30)
    keep[0, :15] = 0
    together = train_members(x, y, keep, generator=torch.Generator().manual_seed(1))
    # A sample that a member leaves out must not change it.
    changed = torch.where(torch.arange(30) < 15, 100.0, y)
    again = train_members(x, changed, keep, generator=torch.Generator().manual_seed(1))
    before, after = predict_members(together, x), predict_members(again, x)
    assert torch.allclose(before[0], after[0], atol=1e-4)
    assert not torch.allclose(before[1], after[1], atol=1.0)


def test_one_draw_of_measured_imagenet_subnets() -> None:
    logs = sorted((DATA / "measured").glob("dynast_mbnv3w10_*.csv"))
    if not logs:
        pytest.skip(f"no measured subnets in {DATA / 'measured'}")
    space = mobilenet_v3().space
    measured: dict[tuple[object, ...], list[float]] = {}
    features: dict[tuple[object, ...], list[bool]] = {}
    for log in logs:
        with log.open() as file:
            for line in csv.DictReader(file):
                arch = arch_from_published(space, ast.literal_eval(line["Sub-network"]))
                measured.setdefault(arch.key, []).append(float(line["Top-1 Acc (%)"]) / 100)
                if arch.key not in features:
                    features[arch.key] = [
                        b < d and chosen == option
                        for lists, options in (
                            (arch.kernel_size, (3, 5, 7)),
                            (arch.expand_ratio, (3, 4, 6)),
                        )
                        for stage, d in zip(lists, arch.depth, strict=True)
                        for b, chosen in enumerate(stage)
                        for option in options
                    ]
    assert len(measured) == 2162
    x = np.array([features[key] for key in measured], dtype=np.float32)
    y = np.array([np.mean(values) for values in measured.values()])
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:300], order[300:]
    report = AccuracyPredictor.fit(x[train], y[train], seed=0).report(x[test], y[test])
    assert report.kendall_tau >= 0.93
    assert 0.85 <= report.interval_coverage <= 0.95
    assert 2 * Z90 * report.rmse < 0.01
