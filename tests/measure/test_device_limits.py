"""One search under limits of several devices, each with a latency table of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from onceforall.arch import Arch
from onceforall.blueprint import Layer
from onceforall.encoding import Encoding
from onceforall.errors import ConfigError, InfeasibleError
from onceforall.job.steps import search as searching
from onceforall.job.tasks import published_search
from onceforall.job.tasks.latency_models import cost_of, device_models, named_tables
from onceforall.job.tasks.published_search import PublishedRequest, search_published
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.costs import layer_macs
from onceforall.measure.latency.fit import FEATURES, LatencyReport
from onceforall.measure.latency.model import LatencyModel, latency_costs
from onceforall.measure.latency.table import space_entries
from onceforall.measure.latency.targets import Hardware
from onceforall.search import nsga2
from onceforall.supernets import families

SPEC = families.small_images(num_classes=5, width_mults=(1.0,), widths=(16, 24))
REPORT = LatencyReport(
    kendall_tau=0.9,
    median_error=0.02,
    p90_error=0.1,
    noise=0.01,
    macs_kendall_tau=0.8,
    num_networks=20,
)


def write_table(path: Path, ms: Callable[[Layer, int], float]) -> Path:
    """Write a latency model in which a layer takes ``ms(layer, size)``."""
    table: dict[Layer, dict[int, float]] = {}
    for layer, size in space_entries(SPEC):
        table.setdefault(layer, {})[size] = ms(layer, size)
    model = LatencyModel(
        target="fake",
        threads=1,
        batch_size=1,
        hardware=Hardware(device="made up", cores=1, runtime="none 1", system="none"),
        sentinel_ms=1.0,
        table=table,
        weights={name: float(name == "table_ms") for name in FEATURES},
        report=REPORT,
    )
    path.write_text(json.dumps(model.to_json()))
    return path


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    """A phone that minds MACs and a laptop that minds layers."""
    return {
        "phone": write_table(
            tmp_path / "p.json", lambda layer, size: layer_macs(layer, size) / 1e5
        ),
        "laptop": write_table(tmp_path / "l.json", lambda layer, size: 1.0),
    }


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch, tables: dict[str, Path]):
    """Search the tiny space with a predictor that likes MACs and layers."""

    def on_rows(encoding: Encoding):
        costs = compile_costs(SPEC, space=encoding.space, layer_costs={"n": lambda _, __: 1.0})
        return lambda rows: (
            0.5 + 1e-8 * costs.evaluate(rows, ("macs",))["macs"]
            + 0.01 * costs.evaluate(rows, ("n",))["n"]
        )  # fmt: skip

    sizes = SPEC.space.resolutions
    predictor = SimpleNamespace(on_rows=on_rows, known_sizes=sizes, scale="made up")
    monkeypatch.setattr(published_search, "read_published_predictor", lambda path: predictor)
    monkeypatch.setattr(published_search, "spec_of", lambda net: SPEC)

    def call(latency: Path | None = None, **limits: list[float]):
        named = {name.replace("_at_", "@"): bounds for name, bounds in limits.items()}
        return search_published(
            PublishedRequest(
                net="tiny",
                predictor=Path("x"),
                latency=latency,
                limits=named,
                devices=tables,
                budget_s=0.8,
            )
        )

    return call


def times(arch: Arch, tables: dict[str, Path]) -> dict[str, float]:
    """Return the milliseconds of an arch on each device, layer by layer."""
    models = {name: LatencyModel.from_json(json.loads(p.read_text())) for name, p in tables.items()}
    plan = SPEC.blueprint(arch)
    return {n: m.latency_ms(plan, resolution=arch.resolution) for n, m in models.items()}


def test_every_device_keeps_its_limit(search, tables: dict[str, Path]) -> None:
    (free,) = search(macs=[1e12])
    most = times(free.arch, tables)
    phone, laptop = 0.5 * most["phone"], most["laptop"] - 2
    (only_phone,) = search(latency_ms_at_phone=[phone])
    (only_laptop,) = search(latency_ms_at_laptop=[laptop])
    (both,) = search(latency_ms_at_phone=[phone], latency_ms_at_laptop=[laptop])
    assert times(only_phone.arch, tables)["laptop"] > laptop
    assert times(only_laptop.arch, tables)["phone"] > phone
    found = times(both.arch, tables)
    assert found["phone"] <= phone * (1 + 1e-6) and found["laptop"] <= laptop * (1 + 1e-6)
    for name in tables:
        assert both.elsewhere_ms[name] == pytest.approx(found[name])
    assert both.latency_ms is None and both.to_json()["latency_ms"] is None
    assert both.predicted_top1 < min(only_phone.predicted_top1, only_laptop.predicted_top1)


def test_named_devices_come_beside_the_plain_table(search, tables: dict[str, Path]) -> None:
    (found,) = search(tables["laptop"], latency_ms=[1e9], latency_ms_at_phone=[1e9])
    assert found.latency_ms == pytest.approx(found.elsewhere_ms["laptop"])


def test_several_bounds_of_one_device_give_one_result_each(search) -> None:
    results = search(latency_ms_at_phone=[30.0, 1e9], latency_ms_at_laptop=[1e9])
    assert [r.limits["latency_ms@phone"] for r in results] == [30.0, 1e9]
    assert results[0].predicted_top1 < results[1].predicted_top1


def test_what_cannot_be_kept_names_the_device(search) -> None:
    with pytest.raises(InfeasibleError, match=r"^latency_ms@phone=0\.001 cannot be kept"):
        search(latency_ms_at_phone=[0.001], latency_ms_at_laptop=[1e9])


def test_a_limit_of_an_unknown_device_or_below_zero_is_refused(search) -> None:
    with pytest.raises(
        ConfigError, match=r"'latency_ms@tv' needs a latency table of 'tv'; .*phone"
    ):
        search(latency_ms_at_tv=[1.0])
    with pytest.raises(ConfigError, match=r"latency_ms@phone=-1 is not a number above 0"):
        search(latency_ms_at_phone=[-1.0])
    with pytest.raises(ConfigError, match="limit 'speed' is not one of latency_ms"):
        search(speed=[1.0])


def test_tables_are_named() -> None:
    assert named_tables(["phone=a.json", "b.json", "my-tv=x=y.json"]) == {
        "phone": Path("a.json"),
        "": Path("b.json"),
        "my-tv": Path("x=y.json"),
    }
    assert named_tables(["./a=b.json"]) == {"": Path("a=b.json")}
    assert (cost_of("phone"), cost_of("")) == ("latency_ms@phone", "latency_ms")
    for texts in (["a=x", "a=y"], ["x", "y"], ["a="]):
        with pytest.raises(ConfigError, match="NAME=PATH, once per name"):
            named_tables(texts)
    with pytest.raises(ConfigError, match="device 'a b' is not a name"):
        device_models({"a b": Path("x")})


def test_both_devices_are_compiled_at_once(tables: dict[str, Path]) -> None:
    costs = compile_costs(SPEC, **latency_costs(SPEC, device_models(tables)))
    rows = costs.encoding.sample(20, np.random.default_rng(0))
    values = costs.evaluate(rows, ("latency_ms@phone", "latency_ms@laptop"))
    for row, phone, laptop in zip(rows, *values.values(), strict=True):
        arch = costs.encoding.to_archs(row[None])[0]
        expected = times(arch, tables)
        assert (phone, laptop) == pytest.approx((expected["phone"], expected["laptop"]))


def test_a_run_is_searched_under_limits_of_other_devices(
    monkeypatch: pytest.MonkeyPatch, tables: dict[str, Path]
) -> None:
    macs = compile_costs(SPEC)
    monkeypatch.setattr(
        searching,
        "predict_top1",
        lambda run: (
            lambda rows: (
                0.5 + 1e-8 * macs.evaluate(rows, ("macs",))["macs"],
                np.zeros(len(rows)),
            )
        ),
    )
    laptop = tables["laptop"]  # any file stands for the predictor, which is replaced
    folder = SimpleNamespace(path=Path("r"), latency=lambda config: laptop, predictor=laptop)
    search = SimpleNamespace(caution=0.0, population_size=32, generations=10, refine_evaluations=0)
    run = SimpleNamespace(
        folder=folder,
        spec=SPEC,
        encoding=macs.encoding,
        config=SimpleNamespace(seed=0, search=search),
        progress=lambda what, done, total: None,
    )
    phone = {"phone": tables["phone"]}
    (free,) = searching.best_under_limits(run, {"latency_ms": [1e9]}, devices=phone)
    bound = 0.5 * free.elsewhere_ms["phone"]
    (kept,) = searching.best_under_limits(run, {"latency_ms@phone": [bound]}, devices=phone)
    found = times(kept.arch, tables)
    assert kept.elsewhere_ms["phone"] == pytest.approx(found["phone"]) and found["phone"] <= bound
    assert kept.latency_ms == pytest.approx(found["laptop"])
    assert kept.predicted_top1 < free.predicted_top1
    with pytest.raises(ConfigError, match="needs a latency table of 'phone'"):
        searching.best_under_limits(run, {"latency_ms@phone": [bound]})
    seeds = []
    monkeypatch.setattr(
        searching, "nsga2", lambda *a, seed, **k: seeds.append(seed) or nsga2(*a, seed=seed, **k)
    )
    for seed in (None, 3):
        searching.best_under_limits(run, {"latency_ms": [1e9]}, seed=seed)
    assert seeds == [0, 3]  # the run's own, or the one asked for
