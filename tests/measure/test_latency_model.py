import contextlib
import itertools
import json
import random
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from onceforall.blueprint import Conv, GlobalPool, Identity, Linear, MaxPool, MBConv
from onceforall.errors import ConfigError, MeasurementError
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.costs import sized_layers
from onceforall.measure.latency import model as latency_model
from onceforall.measure.latency.fit import (
    _RIDGE,
    FEATURES,
    _nonnegative_least_squares,
    fit_and_validate,
    fit_weights,
    fit_with_pace,
    is_narrow,
    layer_features,
)
from onceforall.measure.latency.model import LatencyModel, build_latency_model
from onceforall.measure.latency.table import (
    layer_from_json,
    layer_to_json,
    lookup,
    space_entries,
    timing_key,
)
from onceforall.measure.latency.targets import Candidate, Hardware, Runner
from onceforall.supernets import families

HARDWARE = Hardware(device="made up", cores=1, runtime="none 1", system="none")
SPEC = families.small_images(num_classes=5, width_mults=(1.0,), widths=(16, 24))


def true_ms(candidate: Candidate) -> float:
    """Time of a made-up device: nothing that is linear in the features."""
    total = 0.03  # converting layouts at both ends, and calling it
    for layer, size, channels in sized_layers(candidate.plan, candidate.resolution):
        if isinstance(layer, MBConv):
            work = layer.mid_channels * size**2 * (20 + layer.kernel_size**2)
            total += 0.01 + (work / 4e6) ** 0.9 + 0.01 * (layer.kernel_size == 5)
        elif isinstance(layer, Conv):
            total += 0.005 + layer.in_channels * layer.out_channels * size**2 * 1e-7
        elif isinstance(layer, GlobalPool):
            total += channels * size**2 * 1e-7
    return total


@dataclass(slots=True, kw_only=True)
class Fake:
    """A target with a made-up clock of 1 % noise that counts what it loads."""

    name: str = "fake"
    threads: int = 2
    hardware: Hardware = HARDWARE
    on_calling_thread: bool = False
    fail_after: int = 10**9
    loaded: list[str] = field(default_factory=list)
    noise: random.Random = field(default_factory=lambda: random.Random(0))

    def pinned(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def prepare(self, candidate: Candidate, batch_size: int) -> Runner:
        if candidate.name != "sentinel":
            self.loaded.append(candidate.name)
        if len(self.loaded) > self.fail_after:
            raise KeyboardInterrupt
        time_ms = true_ms(candidate)
        return lambda: time_ms * self.noise.uniform(0.99, 1.01)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LatencyModel:
    journal = tmp_path_factory.mktemp("latency") / "fake.jsonl"
    return build_latency_model(SPEC, target=Fake(), journal=journal, repeats=3, num_networks=40)


def test_unseen_networks_are_predicted(model: LatencyModel) -> None:
    rng = random.Random(99)
    archs = [SPEC.space.sample(rng) for _ in range(100)]
    plans = [(SPEC.blueprint(arch), arch.resolution) for arch in archs]
    predicted = np.array([model.latency_ms(plan, resolution=size) for plan, size in plans])
    truth = np.array([true_ms(Candidate(plan=plan, resolution=size)) for plan, size in plans])
    assert np.median(np.abs(predicted / truth - 1)) < 0.02
    assert model.report.kendall_tau > 0.95
    assert model.report.kendall_tau > model.report.macs_kendall_tau
    assert model.report.median_error < 0.03 and model.report.num_networks == 40


def test_a_population_is_a_sum_over_layers(model: LatencyModel) -> None:
    costs = compile_costs(SPEC, layer_costs={"latency_ms": model.layer_ms})
    rng = random.Random(5)
    archs = [SPEC.space.sample(rng) for _ in range(30)]
    table = costs.evaluate(costs.encoding.from_archs(archs), ("latency_ms",))["latency_ms"]
    one_by_one = [model.latency_ms(SPEC.blueprint(a), resolution=a.resolution) for a in archs]
    assert np.allclose(table, one_by_one, rtol=1e-12)


def test_every_entry_of_the_space_is_there(model: LatencyModel) -> None:
    entries = space_entries(SPEC)
    assert model.missing(entries) == []
    for arch in (SPEC.space.smallest, SPEC.space.largest):
        for layer, size, _ in sized_layers(SPEC.blueprint(arch), arch.resolution):
            pooling = isinstance(layer, GlobalPool | MaxPool | Identity)
            assert pooling or (timing_key(layer), size) in entries
    wider = families.small_images(num_classes=5, width_mults=(1.0,), widths=(16, 32))
    lacking = model.missing(space_entries(wider))
    assert lacking and all("32" in str(layer) or layer.in_channels == 160 for layer, _ in lacking)


def test_a_missing_entry_names_itself_and_the_command(model: LatencyModel) -> None:
    layer = MBConv(in_channels=7, mid_channels=14, out_channels=7, kernel_size=9)
    with pytest.raises(
        MeasurementError,
        match=r"no entry for MBConv\(in_channels=7, .* at 13 px: run  ofa latency build NET "
        r"--target fake --threads 2 --out FILE",
    ):
        model.layer_ms(layer, 13)
    known = next(iter(model.table))
    with pytest.raises(MeasurementError, match="at 999 px"):
        model.layer_ms(known, 999)
    assert model.table_ms(Identity(), 5) == 0.0


def test_json_round_trip(model: LatencyModel) -> None:
    text = json.dumps(model.to_json())
    again = LatencyModel.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    plan = SPEC.blueprint(SPEC.space.largest)
    assert again.latency_ms(plan, resolution=32) == pytest.approx(
        model.latency_ms(plan, resolution=32), rel=1e-4
    )
    assert again.hardware == model.hardware and again.report == model.report
    with pytest.raises(MeasurementError, match="not a latency model"):
        LatencyModel.from_json({"format": "else"})
    with pytest.raises(MeasurementError, match="damaged: weights: Field required"):
        LatencyModel.from_json({k: v for k, v in model.to_json().items() if k != "weights"})


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency_model, "_CHUNK", 8)
    journal = tmp_path / "fake.jsonl"
    settings = {"journal": journal, "repeats": 3, "num_networks": 20}
    crashing = Fake(fail_after=70)
    with pytest.raises(KeyboardInterrupt):
        build_latency_model(SPEC, target=crashing, **settings)
    first = len(journal.read_text().splitlines())
    assert first == 1 + 8 * (70 // 8)
    with journal.open("a") as file:
        file.write('{"kind": "blo')  # the line that a crash cut off
    target = Fake()
    seen: list[tuple[int, int]] = []
    build_latency_model(
        SPEC, target=target, progress=lambda done, total: seen.append((done, total)), **settings
    )
    assert not set(target.loaded) & set(crashing.loaded[:64])
    assert seen[-1][0] == seen[-1][1] == len(target.loaded) + 64
    third = Fake()
    model = build_latency_model(SPEC, target=third, **settings)
    assert third.loaded == [] and model.report.num_networks == 20
    with pytest.raises(ConfigError, match=r"measured with threads 2, not 4"):
        build_latency_model(SPEC, target=Fake(threads=4), **settings)


def test_out_of_time_there_are_still_enough_networks(tmp_path: Path) -> None:
    model = build_latency_model(
        SPEC, target=Fake(), journal=tmp_path / "j.jsonl", budget_s=0.0, num_networks=120
    )
    assert 20 <= model.report.num_networks <= 32
    with pytest.raises(ConfigError, match="num_networks 5 is below 20"):
        build_latency_model(SPEC, target=Fake(), journal=tmp_path / "k.jsonl", num_networks=5)


def test_a_space_of_three_networks_is_refused(tmp_path: Path) -> None:
    space = SPEC.space.restrict(kernel_size=[3], expand_ratio=[2], depth=[1])
    with pytest.raises(MeasurementError, match=r"3 networks are too few .* at least 5"):
        build_latency_model(SPEC, target=Fake(), journal=tmp_path / "j.jsonl", space=space)


def test_between_sizes_time_is_linear_in_pixels() -> None:
    layer = Conv(in_channels=3, out_channels=4)
    table = {layer: {10: 1.0, 20: 4.0}}
    assert lookup(table, layer, 10) == 1.0
    assert lookup(table, layer, 15) == pytest.approx(1 + 3 * (225 - 100) / (400 - 100))
    assert lookup(table, layer, 9) is None and lookup(table, layer, 21) is None
    assert lookup(table, Conv(in_channels=3, out_channels=5), 10) is None


def test_names_of_ratios_and_dropout_are_no_new_entries() -> None:
    layer = MBConv(in_channels=8, mid_channels=24, out_channels=8, kernel_size=3, expand_ratio=3)
    twin = MBConv(in_channels=8, mid_channels=24, out_channels=8, kernel_size=3, expand_ratio=3.1)
    assert timing_key(layer) == timing_key(twin)
    assert timing_key(Linear(in_features=2, out_features=3, dropout=0.2)) == Linear(
        in_features=2, out_features=3
    )


@pytest.mark.parametrize("name", ["mobilenet_v3", "proxylessnas", "resnet50d"])
def test_layer_records_survive_json(name: str) -> None:
    spec = getattr(families, name)()
    entries = space_entries(spec, resolutions=(128, 224))
    assert len(entries) == len(set(entries)) > 100
    for layer, size in entries:
        assert size >= 1
        assert layer_from_json(json.loads(json.dumps(layer_to_json(layer)))) == layer
    with pytest.raises(MeasurementError, match="has a type other than Conv, MBConv"):
        layer_from_json({"type": "GlobalPool"})


def test_narrow_layers_are_told_apart() -> None:
    """Runtimes lay 16 channels out as one block; images have a kernel of their own."""
    told = {
        (reads, gives): is_narrow(Conv(in_channels=reads, out_channels=gives))
        for reads in (3, 8, 16)
        for gives in (8, 16)
    }
    assert told == {
        (3, 8): True, (8, 8): True, (16, 8): True, (3, 16): False, (8, 16): True, (16, 16): False,
    }  # fmt: skip
    assert not is_narrow(Linear(in_features=8, out_features=8))
    layer = Conv(in_channels=8, out_channels=16)
    found = dict(zip(FEATURES, layer_features(layer, 5, 0.25), strict=True))
    assert found["narrow_ms"] == found["table_ms"] == 0.25


def test_a_file_from_before_narrow_layers_says_the_same(model: LatencyModel) -> None:
    value = model.to_json()
    older = dict(model.weights) | {"narrow_ms": 0.0}
    del value["weights"]["narrow_ms"]
    assert LatencyModel.from_json(value).weights == older
    del value["weights"]["table_ms"]
    with pytest.raises(MeasurementError, match="table_ms is missing"):
        LatencyModel.from_json(value)


def test_features_are_counted() -> None:
    layer = MBConv(
        in_channels=4, mid_channels=8, out_channels=4, kernel_size=3, stride=2,
        activation="h_swish", se_channels=2,
    )  # fmt: skip
    found = dict(zip(FEATURES, layer_features(layer, 5, 0.25), strict=True))
    assert found["table_ms"] == 0.25 and found["networks"] == 0
    assert found["pointwise_macs"] == 4 * 8 * 25 + 8 * 2 + 2 * 8 + 8 * 4 * 9
    assert found["depthwise_macs"] == 8 * 9 * 9 and found["spatial_macs"] == 0
    assert found["moved_numbers"] == (100 + 200) + (200 + 72) + (8 + 2) + (2 + 8) + (72 + 36)
    assert found["weight_numbers"] == 32 + 72 + 16 + 16 + 32
    assert found["curved_numbers"] == 200 + 72 + 8 and found["gated_numbers"] == 72
    assert found["operations"] == 5


def test_weights_are_the_best_that_are_not_negative() -> None:
    rng = np.random.default_rng(0)
    features = rng.uniform(0.5, 1.5, size=(60, len(FEATURES)))
    wanted = np.maximum(0, rng.normal(size=len(FEATURES)))
    weights = fit_weights(features, features @ wanted)
    assert (weights >= 0).all()
    assert np.allclose(features @ weights, features @ wanted, rtol=0.02)
    # Measurements gone wrong by a factor of 5 are not believed.
    latency = features @ wanted
    latency[[7, 21]] /= 5
    assert np.allclose(features @ fit_weights(features, latency), features @ wanted, rtol=0.05)


def calls(slowness: list[float], each: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features of random networks, true latencies and the call that each was measured in."""
    rng = np.random.default_rng(2)
    features = rng.uniform(0.5, 1.5, size=(each * len(slowness), len(FEATURES)))
    latency = features @ rng.uniform(0, 1, size=len(FEATURES))
    call = rng.permutation(np.repeat(np.arange(len(slowness)), each))
    return features, latency, call


def test_a_slow_call_is_taken_out() -> None:
    slowness = np.array([1.0, 1.5, 0.9, 1.0])
    features, latency, call = calls(slowness.tolist())
    weights, pace = fit_with_pace(features, latency * slowness[call], call)
    assert np.allclose(pace, slowness, rtol=0.01)
    assert np.allclose(features @ weights, latency, rtol=0.03)
    disturbed = features @ fit_weights(features, latency * slowness[call])
    assert np.median(np.abs(disturbed / latency - 1)) > 0.03
    _, report = fit_and_validate(
        features, latency * slowness[call], call_N=call, macs_N=range(len(call)), noise=0.0
    )
    assert report.kendall_tau > 0.97 and report.pace_spread == pytest.approx(1.5 / 0.9, rel=0.01)


@pytest.mark.parametrize("paces", [[1.0, 1.5], [1.5, 1.0, 1.5, 1.0]])
def test_every_fold_is_in_the_same_unit(paces: list[float]) -> None:
    features, latency, call = calls(paces, each=32)
    slow = latency * np.array(paces)[call]
    macs = (latency * 1e6).astype(int).tolist()
    _, report = fit_and_validate(features, slow, call_N=call, macs_N=macs, noise=0.0)
    assert report.macs_kendall_tau > 0.99 and report.kendall_tau > 0.97
    assert report.p90_error < 0.05


def test_a_call_of_few_is_known_in_every_fold() -> None:
    features, latency, _ = calls([1.0] * 4, each=10)
    call = np.random.default_rng(0).permutation([0] * 32 + [1] * 8)
    slow = np.where(call == 1, 1.5, 1.0) * latency
    _, report = fit_and_validate(features, slow, call_N=call, macs_N=range(40), noise=0.0)
    assert report.pace_spread == pytest.approx(1.5, rel=0.02) and report.p90_error < 0.1


def test_few_networks_say_nothing_of_their_call() -> None:
    features, latency, _ = calls([1.0, 1.0])
    call = np.array([0] * 57 + [1] * 3)
    slow = np.where(call == 1, 3.0, 1.0)
    weights, pace = fit_with_pace(features, latency * slow, call)
    assert pace.tolist() == [1.0, 1.0]
    assert np.allclose(features @ weights, latency, rtol=0.05)
    for each in (call, np.arange(60)):  # one call that counts, and none
        _, report = fit_and_validate(features, latency, call_N=each, macs_N=range(60), noise=0.0)
        assert report.pace_spread == 1


def test_the_active_set_equals_trying_every_subset() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, prior = rng.normal(size=(12, 5)) + 0.3, np.maximum(0, rng.normal(size=5))
        trust = rng.uniform(0.1, 1, size=12)

        def loss(w: np.ndarray, x=x, trust=trust, prior=prior) -> float:
            return float((trust * (x @ w - 1) ** 2).sum() + _RIDGE * ((w - prior) ** 2).sum())

        gram = (x * trust[:, None]).T @ x + _RIDGE * np.eye(5)
        goal = x.T @ trust + _RIDGE * prior
        best = np.inf
        for kept in itertools.product([False, True], repeat=5):
            w = np.zeros(5)
            mask = np.array(kept)
            if mask.any():
                w[mask] = np.linalg.solve(gram[np.ix_(mask, mask)], goal[mask])
            if (w >= 0).all():
                best = min(best, loss(w))
        assert loss(_nonnegative_least_squares(x, trust, prior)) == pytest.approx(best)
