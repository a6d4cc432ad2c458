import contextlib
import json
import random
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest
import torch

from onceforall.errors import ConfigError, MeasurementError, MissingExtraError
from onceforall.measure.latency.measure import SENTINEL, Latency, measure_latency
from onceforall.measure.latency.targets import (
    TARGETS,
    Candidate,
    Hardware,
    Runner,
    TorchCpu,
    make_target,
)
from onceforall.supernets import families
from onceforall.supernets.static import build

SPEC = families.small_images(num_classes=5)
HARDWARE = Hardware(device="made up", cores=1, runtime="none", system="none")


def candidate(name: str, resolution: int = 16) -> Candidate:
    return Candidate(plan=SPEC.blueprint(SPEC.space.smallest), resolution=resolution, name=name)


@dataclass(slots=True, kw_only=True)
class Fake:
    """A target whose clock is made up: ``times`` by name, slowed by ``slowness(calls so far)``."""

    times: dict[str, float]
    slowness: list[float] = field(default_factory=lambda: [1.0])
    sentinel_feels: float = 1.0
    name: str = "fake"
    threads: int = 2
    hardware: Hardware = HARDWARE
    on_calling_thread: bool = False
    calls: int = 0
    order: list[str] = field(default_factory=list)

    def pinned(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def prepare(self, candidate: Candidate, batch_size: int) -> Runner:
        def run() -> float:
            self.calls += 1
            self.order.append(candidate.name)
            place = min(len(self.slowness) - 1, self.calls * len(self.slowness) // 2000)
            slowness = self.slowness[place]
            if candidate.name == "sentinel":
                slowness **= self.sentinel_feels
            return self.times[candidate.name] * slowness

        return run


def test_drift_is_taken_out() -> None:
    # The machine gets three times slower while the candidates are measured.
    slowness = [1 + 2 * i / 99 for i in range(100)]
    fake = Fake(times={"sentinel": 1.0, "a": 10.0, "b": 10.2, "c": 30.0}, slowness=slowness)
    records = measure_latency([candidate(n) for n in "abc"], target=fake, repeats=40)
    a, b, c = (r.latency_ms for r in records)
    assert a < b < c
    assert c / a == pytest.approx(3, rel=0.02)
    assert b / a == pytest.approx(1.02, rel=0.01)
    assert all(r.repeats == 40 and r.latency_mad_ms < 0.03 * r.latency_ms for r in records)
    assert records[0].sentinel_spread > 1.2


@pytest.mark.parametrize("slow", [9, 12])
@pytest.mark.parametrize("seed", range(3))
def test_drift_that_the_sentinel_hardly_feels_is_taken_out(seed: int, slow: int) -> None:
    # Another program comes and goes: networks take twice their time, the sentinel 7 % more.
    slowness = random.Random(seed).sample([2.0] * slow + [1.0] * (20 - slow), 20)
    times = {name: 1.5 + 0.1 * i for i, name in enumerate("abcdefghijklmnop")}
    fake = Fake(times={"sentinel": 1.0, **times}, slowness=slowness, sentinel_feels=0.1)
    records = measure_latency([candidate(n) for n in times], target=fake, repeats=40)
    found = [r.latency_ms / true for r, true in zip(records, times.values(), strict=True)]
    assert found == pytest.approx([1.0] * len(times), rel=0.02)
    assert all(r.latency_mad_ms < 0.03 * r.latency_ms for r in records)
    assert records[0].sentinel_ms == pytest.approx(1.0, rel=0.02)


def test_groups_agree_where_one_is_disturbed() -> None:
    times = {f"net{i}": 1.5 + 0.1 * i for i in range(64)}
    first = [2.0, 1.0, 2.0, 2.0, 1.0, 2.0, 2.0, 1.0]  # then nothing for the second half
    fake = Fake(
        times={"sentinel": 1.0, **times}, slowness=[*first, *[1.0] * 12], sentinel_feels=0.1
    )
    records = measure_latency([candidate(n) for n in times], target=fake, repeats=10)
    found = [r.latency_ms / true for r, true in zip(records, times.values(), strict=True)]
    assert found == pytest.approx([1.0] * len(times), rel=0.05)


def test_two_sessions_agree_through_the_sentinel() -> None:
    quick = Fake(times={"sentinel": 1.0, "a": 10.0})
    slow = Fake(times={"sentinel": 1.0, "a": 10.0}, slowness=[1.7])
    (first,) = measure_latency([candidate("a")], target=quick, repeats=3)
    (second,) = measure_latency(
        [candidate("a")], target=slow, repeats=3, sentinel_ms=first.sentinel_ms
    )
    assert first.latency_ms == pytest.approx(10) and second.latency_ms == pytest.approx(10)
    assert second.sentinel_ms == pytest.approx(1.7)


def test_passes_are_interleaved_in_a_new_order() -> None:
    fake = Fake(times={"sentinel": 2.0, **{n: 2.0 for n in "abcdef"}})
    measure_latency([candidate(n) for n in "abcdef"], target=fake, repeats=6)
    sampled = [name for name in fake.order if name != "sentinel"]
    passes = [sampled[i : i + 12 : 2] for i in range(len(sampled) - 72, len(sampled), 12)]
    assert all(sorted(p) == list("abcdef") for p in passes)
    assert len({tuple(p) for p in passes}) > 3


def test_short_runs_are_averaged_and_long_ones_are_not() -> None:
    fake = Fake(times={"sentinel": 1.0, "short": 0.1, "long": 5.0})
    measure_latency([candidate("short"), candidate("long")], target=fake, repeats=3)
    assert fake.order.count("short") >= 6 + 3 * 11
    assert fake.order.count("long") == 6 + 3 * 2


def test_out_of_time_every_candidate_still_has_three_samples() -> None:
    fake = Fake(times={"sentinel": 1.0, "a": 1.0, "b": 1.0})
    records = measure_latency(
        [candidate("a"), candidate("b")], target=fake, repeats=50, max_seconds=0.0
    )
    assert [r.repeats for r in records] == [3, 3]


def test_a_sample_that_lost_the_processor_counts_its_own_time() -> None:
    class Sleepy(Fake):
        def prepare(self, candidate: Candidate, batch_size: int) -> Runner:
            run = Fake.prepare(self, candidate, batch_size)

            def sometimes() -> float:
                elapsed = run()
                end = time.thread_time() + elapsed / 1e3
                while time.thread_time() < end:
                    pass
                if candidate.name == "a" and self.order.count("a") % 3:
                    time.sleep(0.002)
                    elapsed += 2.0
                return elapsed

            return sometimes

    fake = Sleepy(times={"sentinel": 1.0, "a": 1.0}, on_calling_thread=True)
    (record,) = measure_latency([candidate("a")], target=fake, repeats=10)
    assert record.repeats == 10 and record.disturbed >= 6
    assert record.latency_ms == pytest.approx(1.0, rel=0.1)


def test_onnx_runtime_ranks_a_small_and_a_large_network() -> None:
    pytest.importorskip("onnxruntime")
    largest = Candidate(plan=SPEC.blueprint(SPEC.space.largest), resolution=32, name="largest")
    seen: list[tuple[int, int]] = []
    records = measure_latency(
        [candidate("smallest"), largest],
        repeats=5,
        max_seconds=5,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert records[0].latency_ms < records[1].latency_ms
    assert seen == [(2, 2)]
    for record in records:
        assert record.target == "ort-cpu" and record.threads == 1 and record.batch_size == 1
        assert record.hardware.runtime.startswith("onnxruntime ") and record.hardware.device
        assert record.latency_p90_ms >= record.latency_ms > record.latency_mad_ms >= 0
        assert Latency.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert "ort-cpu, 1 thread, " in str(records[0])


def test_torch_cpu_restores_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    target = TorchCpu(threads=before + 1)
    with target.pinned():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    net = build(SPEC.blueprint(SPEC.space.smallest)).eval()
    own = Candidate(
        plan=SPEC.blueprint(SPEC.space.smallest), resolution=16, name="own", weights=net
    )
    (record,) = measure_latency([own], target=TorchCpu(), repeats=3, max_seconds=3)
    assert record.latency_ms > 0 and record.target == "torch-cpu"
    assert record.hardware.runtime == f"torch {torch.__version__}"


def test_targets_are_named() -> None:
    for name in TARGETS:
        threads = 1 if name == "torch-cuda" else 3  # a GPU has none of a processor's
        target = make_target(name, threads=threads)
        assert target.name == name and target.threads == threads
    with pytest.raises(ConfigError, match=r"'tpu' is not one of ort-cpu, torch-cpu"):
        make_target("tpu")
    with pytest.raises(ConfigError, match="threads 0"):
        make_target("ort-cpu", threads=0)


def test_one_gpu_of_several_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    names = {"torch-cuda": "GPU 1", "torch-cuda:0": "GPU 0", "torch-cuda:1": "GPU 1"}
    for name, device in names.items():
        target = make_target(name)
        assert target.name == name and target.hardware.device == device
    with pytest.raises(MeasurementError, match=r"torch-cuda:2: there are 2 CUDA devices"):
        measure_latency([candidate("a")], target=make_target("torch-cuda:2"))
    for name in ("torch-cuda:", "torch-cuda:x", "torch-cuda:-1"):
        with pytest.raises(ConfigError, match="is not one of"):
            make_target(name)


def test_what_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MeasurementError, match="torch-cuda: PyTorch sees no CUDA device"):
        measure_latency([candidate("a")], target=make_target("torch-cuda"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"onceforall\[openvino\]"):
        measure_latency([candidate("a")], target=make_target("openvino"))
    with pytest.raises(MeasurementError, match="latency record"):
        Latency.from_json({"name": "x"})


def test_the_sentinel_is_a_network_of_its_own() -> None:
    assert SENTINEL.name == "sentinel" and len(SENTINEL.plan.layers) == 5
