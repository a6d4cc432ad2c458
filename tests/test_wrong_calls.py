"""Wrong calls from Python: one clear error of our own, before anything is done or lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onceforall as ofa
from onceforall.errors import ConfigError, DataError, MeasurementError, OnceForAllError
from onceforall.job.config import flag, resolve
from onceforall.job.recipes import recipe_for
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.latency.measure import measure_latency
from onceforall.measure.latency.targets import Candidate, TorchCpu
from onceforall.predictors.accuracy import AccuracyPredictor
from onceforall.training.plan import Opened, Phase, Plan, sandwich_plan
from onceforall.zoo import load_config_net
from tests.supernets.graphs.tiny import elastic, friendly
from tests.training.tiny import SPEC, tiny_images, tiny_net

PHASE = {"name": "p", "epochs": 1.0, "learning_rate": 0.1}
PLAN = {"name": "plan", "phases": (Phase(**PHASE),), "reference_batch": 16}
ARCH = SPEC.space.smallest


def arrays() -> tuple[np.ndarray, np.ndarray]:
    images = tiny_images(30)
    return images.images.permute(0, 2, 3, 1).numpy(), images.labels.numpy()


def plain() -> Any:
    return tiny_net().extract(ARCH)


CASES: dict[str, tuple[Callable[[Path], Any], type[OnceForAllError], str]] = {
    "draw": (lambda _: Phase(**PHASE, draw="sandwhich"), ConfigError, "draw 'sandwhich' is not"),
    "teacher": (lambda _: Phase(**PHASE, teacher="forzen"), ConfigError, "'forzen' is not one of"),
    "trainable": (lambda _: Phase(**PHASE, trainable="head"), ConfigError, "trainable 'head' is"),
    "ramp": (lambda _: Phase(**PHASE, ramp=2.0), ConfigError, "are shares, 0 to 1"),
    "cosine": (lambda _: Phase(**PHASE, cosine_part=(0.5, 0.2)), ConfigError, "are shares"),
    "side": (lambda _: Plan(**PLAN, train_side=0), ConfigError, r"train_side 0 is not in \(0, 1\]"),
    "smoothing": (lambda _: Plan(**PLAN, label_smoothing=1), ConfigError, "label_smoothing 1 is"),
    "batch": (lambda _: Plan(**{**PLAN, "reference_batch": 0}), ConfigError, "reference_batch 0"),
    "estimator": (
        lambda _: ofa.recalibrate_bn(plain(), [torch.randn(4, 3, 8, 8)], estimator="publised"),
        ConfigError,
        "estimator 'publised' is not one of published, population",
    ),
    "no arch": (
        lambda _: ofa.recalibrate_bn(tiny_net(), [torch.randn(4, 3, 8, 8)]),
        MeasurementError,
        "a supernet needs an arch",
    ),
    "taken": (
        lambda _: compile_costs(
            elastic(friendly()["plain"]).spec, graph_costs={"macs": lambda encoding: []}
        ),
        ConfigError,
        "cost name 'macs' is taken",
    ),
    "no mean": (
        lambda out: ofa.ship(
            plain(), out / "m", arch=ARCH,
            test=[(torch.randn(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))],
        ),
        ConfigError,
        "mean and std, that images are normalised by, are not said",
    ),
    "classes": (
        lambda out: ofa.ship(
            plain(), out / "m", arch=ARCH, classes=["a", "b"], mean=(0, 0, 0), std=(1, 1, 1),
            test=[(torch.randn(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))],
        ),
        ConfigError,
        "2 classes are named, the network has 3",
    ),
    "no time": (
        lambda out: ofa.run("digits", out=out / "r", budget=0),
        ConfigError,
        "'0' is not a time",
    ),
    "negative time": (
        lambda out: ofa.run("digits", out=out / "r", budget=-5.0),
        ConfigError,
        "'-5.0' is not a time",
    ),
    "device": (
        lambda out: ofa.run("digits", out=out / "r", device="gpu"),
        ConfigError,
        "'gpu' is not one of cpu, cuda",
    ),
    "label": (
        lambda out: ofa.run((arrays()[0], arrays()[1] - 1), out=out / "r"),
        DataError,
        "y_train: label -1 is below 0",
    ),
    "held out": (
        lambda out: ofa.train(
            tiny_net(), sandwich_plan(epochs=1, learning_rate=0.1, reference_batch=16), "digits",
            folder=out, num_valid=0,
        ),
        ConfigError,
        "classes|num_valid 0 is not at least 1",
    ),
    "repeats": (
        lambda _: measure_latency([Candidate(plan=plain().plan, resolution=8)], repeats=0),
        ConfigError,
        "repeats 0 is not at least 1",
    ),
    "percent": (
        lambda _: AccuracyPredictor.fit(np.random.rand(40, 3), np.linspace(60, 80, 40)),
        ConfigError,
        "fractions, not percent",
    ),
    "bad images": (
        lambda out: ofa.open_dataset("digits", on_bad_image="ignore"),
        ConfigError,
        "on_bad_image 'ignore' is not refuse or skip",
    ),
    "no data": (
        lambda out: ofa.open_dataset(out / "missing"), ConfigError, "no such folder or .npz file"
    ),
    "no pixels": (
        lambda out: load_config_net({"name": "MobileNetV3", "resolution": 32}, resolution=0),
        ConfigError,
        "resolution 0 is not a number of pixels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_call_is_one_error_of_our_own(case: str, tmp_path: Path) -> None:
    call, kind, message = CASES[case]
    with pytest.raises(kind, match=message):
        call(tmp_path)
    assert not list(tmp_path.rglob("*")), "nothing is written"


def test_a_file_of_the_user_is_never_written_over(tmp_path: Path) -> None:
    images, labels = arrays()
    np.savez(tmp_path / "flowers.npz", x=images, y=labels)
    before = (tmp_path / "flowers.npz").read_bytes()
    with pytest.raises(DataError, match=r"flowers\.npz is there and holds something else"):
        ofa.run((images, labels), out=tmp_path / "flowers")
    assert (tmp_path / "flowers.npz").read_bytes() == before


def test_options_of_a_phase_may_be_lists_and_numbers_of_numpy() -> None:
    opened = Opened(kernel_size=[3], depth=np.int64(1))  # type: ignore[arg-type]
    assert opened == Opened(kernel_size=(3,), depth=1)
    space = opened.restrict(SPEC.space)
    assert {kernel for stage in space.stages for kernel in stage.kernel_sizes} == {3}
    assert {depth for stage in space.stages for depth in stage.depths} == {2}


def test_settings_may_be_numbers_of_numpy_and_paths() -> None:
    recipe = recipe_for("x", image_side=32, num_train=5000, num_classes=10)
    flags = (
        flag("train.epochs", np.float64(7)),
        flag("search.limits.latency_ms", np.float32(0.5)),
        flag("data.root", Path("/some/where")),
    )
    found = resolve(recipe, flags=flags)
    assert found.train.epochs == 7 and found.search.limits == {"latency_ms": 0.5}
    assert found.data.root == "/some/where"


def test_measuring_changes_nothing_of_the_network() -> None:
    model = plain().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    candidate = Candidate(plan=model.plan, resolution=8, weights=model)
    (found,) = measure_latency([candidate], target=TorchCpu(), repeats=3)
    assert found.latency_ms > 0 and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert measure_latency([]) == []


def test_a_network_without_weights_draws_nothing_of_the_callers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    measure_latency([Candidate(plan=plain().plan, resolution=8)], target=TorchCpu(), repeats=3)
    ofa.elastic(SPEC, seed=0)
    assert torch.equal(torch.rand(3), expected)
