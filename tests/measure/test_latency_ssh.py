"""Latency over ssh, with a program in place of ssh that runs the remote command here."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onceforall.errors import ConfigError, MeasurementError
from onceforall.measure.latency import journal as latency_journal
from onceforall.measure.latency import model as latency_model
from onceforall.measure.latency import worker as latency_worker
from onceforall.measure.latency.measure import SENTINEL, measure_latency
from onceforall.measure.latency.model import build_latency_model
from onceforall.measure.latency.ssh import SshOrt, without_weights
from onceforall.measure.latency.targets import Candidate, OrtCpu, make_target
from onceforall.measure.latency.worker import with_weights
from onceforall.measure.onnx.model import blueprint_to_onnx, ort_session
from onceforall.supernets import families
from onceforall.supernets.static import build
from tests.measure.fake_ssh import fake_ssh, num_calls, without

__all__ = ["fake_ssh"]

pytest.importorskip("onnxruntime")
SPEC = families.small_images(num_classes=5, width_mults=(1.0,), widths=(16, 24))
SMALL = Candidate(plan=SPEC.blueprint(SPEC.space.smallest), resolution=16, name="small")
LARGE = Candidate(plan=SPEC.blueprint(SPEC.space.largest), resolution=32, name="large")


def test_two_networks_are_measured_there(fake_ssh: Path) -> None:
    seen: list[tuple[int, int]] = []
    small, large = measure_latency(
        [SMALL, LARGE],
        target=make_target("ssh:pi@board"),
        repeats=5,
        max_seconds=5,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert 0 < small.latency_ms < large.latency_ms
    assert small.sentinel_ms == large.sentinel_ms > 0
    assert small.repeats == 5 and seen == [(2, 2)]
    # This machine is the remote one: it says the same of itself.
    assert small.hardware == OrtCpu().hardware
    assert (small.target, small.threads, small.batch_size) == ("ssh:pi@board", 1, 1)
    assert num_calls(fake_ssh) == 1
    (call,) = (fake_ssh / "calls").read_text().splitlines()
    assert "-o BatchMode=yes -o ConnectTimeout=10" in call and "-- pi@board python3 -c" in call


def test_the_sentinel_is_sampled_in_between_and_no_candidate(fake_ssh: Path) -> None:
    sentinel, *others = SshOrt(host="board").sample_group(
        [SENTINEL, SMALL, LARGE], batch_size=1, repeats=4, max_seconds=None, seed=0
    )
    assert [len(one.samples) for one in others] == [4, 4]
    assert len(sentinel.samples) == 4 + 1
    moments = [moment for one in (sentinel, *others) for moment, _ in one.samples]
    assert min(moments) == sentinel.samples[0][0] and max(moments) == sentinel.samples[-1][0]


def test_real_weights_and_files_are_sent_whole(fake_ssh: Path) -> None:
    net = build(SMALL.plan).eval()
    own = Candidate(plan=SMALL.plan, resolution=16, name="own", weights=net)
    data = blueprint_to_onnx(SMALL.plan, net, resolution=16)
    file = Candidate(plan=SMALL.plan, resolution=16, name="file", onnx=data)
    records = measure_latency(
        [own, file], target=SshOrt(host="board", threads=2), repeats=3, batch_size=2
    )
    assert [r.threads for r in records] == [2, 2]
    assert all(r.latency_ms > 0 and r.batch_size == 2 for r in records)


def test_random_weights_are_made_there() -> None:
    data = blueprint_to_onnx(LARGE.plan, resolution=32, batch_size=1)
    rest, weights = without_weights(data)
    assert len(rest) < 0.3 * len(data) and len(weights) > 10
    again = with_weights(rest, json.loads(json.dumps(weights)))
    assert len(again) == len(data)
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    first, second = (ort_session(m).run(None, {"images": images})[0] for m in (data, again))
    assert np.isfinite(second).all() and not np.array_equal(first, second)
    assert 0.1 < np.abs(second).mean() / np.abs(first).mean() < 10


def test_the_worker_needs_only_python_3_8_and_its_standard_library() -> None:
    text = Path(latency_worker.__file__).read_text()
    tree = ast.parse(text, feature_version=(3, 8))
    for node in tree.body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.split(".")[0] in sys.stdlib_module_names
    assert "onceforall." not in text


def test_its_sessions_have_the_settings_of_those_here() -> None:
    import onnxruntime

    made: list[onnxruntime.SessionOptions] = []

    class Runtime:
        ExecutionMode = onnxruntime.ExecutionMode
        SessionOptions = onnxruntime.SessionOptions

        @staticmethod
        def InferenceSession(model, options, providers):
            made.append(options)
            return onnxruntime.InferenceSession(model, options, providers=providers)

    data = blueprint_to_onnx(SMALL.plan, resolution=16, batch_size=1)
    images = np.zeros((1, 3, 16, 16), np.float32)
    assert latency_worker.ort_runner(Runtime, data, images, 2)() > 0
    ours = ort_session(data, threads=2).get_session_options()
    for name in ("intra_op_num_threads", "inter_op_num_threads", "execution_mode"):
        assert getattr(made[0], name) == getattr(ours, name)


def test_what_is_wrong_there_is_one_line(fake_ssh: Path) -> None:
    with pytest.raises(MeasurementError, match=r"^ssh:nowhere: ssh cannot connect: .*No route"):
        measure_latency([SMALL], target=SshOrt(host="nowhere"))
    with pytest.raises(MeasurementError, match=r"^ssh:bare: python3 is not installed there"):
        _ = SshOrt(host="bare").hardware
    with pytest.raises(MeasurementError, match=r"^ssh:silent: no answer within 0 s$"):
        _ = SshOrt(host="silent", patience_s=0.3).hardware
    with pytest.raises(MeasurementError, match=r"^ssh:board: cannot start 'no-such-ssh'"):
        _ = SshOrt(host="board", program="no-such-ssh").hardware
    broken = Candidate(plan=SMALL.plan, resolution=16, name="broken", onnx=b"nothing")
    with pytest.raises(MeasurementError, match=r"^ssh:board cannot run 'broken': [^\n]+$"):
        measure_latency([broken], target=SshOrt(host="board"))
    without(fake_ssh, "onnxruntime")
    with pytest.raises(
        MeasurementError,
        match=r"^ssh:board: onnxruntime is not installed there: run there  "
        r"python3 -m pip install onnxruntime$",
    ):
        measure_latency([SMALL], target=SshOrt(host="board"))


@pytest.mark.parametrize("output", ["{", '{"kind": "samples"}', "[1]", '{"kind": "facts"}'])
def test_a_damaged_answer_is_refused(output: str, tmp_path: Path) -> None:
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/bash\ncat > {os.devnull}\necho '@onceforall {output}'\n")
    program.chmod(0o755)
    with pytest.raises(MeasurementError, match=r"^ssh:board: [^\n]+$"):
        measure_latency([SMALL], target=SshOrt(host="board", program=str(program)))


@pytest.mark.parametrize(
    "host", ["", "-oProxyCommand=x", "a b", "a;b", "$(x)", "u@", "@h", "u@-h", "a/b", "a\nb"]
)
def test_what_cannot_be_a_host_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form ssh:USER@HOST"):
        make_target(f"ssh:{host}")


@pytest.mark.parametrize("host", ["pi", "pi@10.0.0.2", "me.you@box-1.example.org", "u@fe80::1%en0"])
def test_hosts_are_named_as_ssh_names_them(host: str) -> None:
    assert make_target(f"ssh:{host}", threads=3).name == f"ssh:{host}"


def test_a_connection_that_breaks_loses_only_its_group(
    fake_ssh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency_model, "_CHUNK", 8)
    (fake_ssh / "lives").write_text("2")  # two groups
    journal = tmp_path / "board.jsonl"
    space = SPEC.space.restrict(kernel_size=[3], resolution=[24])
    settings = {"journal": journal, "space": space, "repeats": 3, "num_networks": 20}
    with pytest.raises(
        MeasurementError,
        match=r"^ssh:dying: the connection or the worker ended while measuring \(status 255\): "
        r"client_loop: send disconnect",
    ):
        build_latency_model(SPEC, target=SshOrt(host="dying"), budget_s=0.0, **settings)
    kept = journal.read_text()
    kinds = [json.loads(line)["kind"] for line in kept.splitlines()]
    assert kinds == ["header"] + ["block"] * (len(kinds) - 1) and 8 < len(kinds) <= 17
    before = num_calls(fake_ssh)
    (fake_ssh / "lives").write_text("1000000")
    model = build_latency_model(SPEC, target=SshOrt(host="dying"), budget_s=0.0, **settings)
    assert journal.read_text().startswith(kept)
    assert model.target == "ssh:dying" and model.hardware == OrtCpu().hardware
    names = [line for line in journal.read_text().splitlines() if '"block"' in line]
    assert len(names) == len(set(names)) and num_calls(fake_ssh) > before


def test_the_journal_holds_one_kind_of_machine(fake_ssh: Path, tmp_path: Path) -> None:
    journal = latency_journal.Journal.open(
        tmp_path / "j.jsonl", target=SshOrt(host="board"), batch_size=1, repeats=3
    )
    assert journal.conditions()["hardware"] == OrtCpu().hardware.to_json()


def test_the_real_ssh_to_this_machine() -> None:
    program = shutil.which("ssh")
    if program is None:
        pytest.skip("no ssh")
    probe = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", "localhost"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        check = "python3 -c 'import onnxruntime'"
        if subprocess.run([*probe, check], capture_output=True, timeout=20).returncode == 0:
            (record,) = measure_latency([SMALL], target=SshOrt(host="localhost"), repeats=3)
            assert record.latency_ms > 0
            return
    pytest.skip("ssh localhost does not work here")


def test_it_says_what_it_is_and_stops_where_nobody_listens() -> None:
    answers: list[dict[str, object]] = []
    latency_worker.serve(io.BytesIO(b'{"models": []}\n'), answers.append)
    assert [a["kind"] for a in answers] == ["facts"]

    def deaf(value: dict[str, object]) -> None:
        if value["kind"] == "pass":
            raise BrokenPipeError

    data = blueprint_to_onnx(SMALL.plan, resolution=16, batch_size=1)
    model = {"name": "a", "bytes": len(data), "weights": [], "shape": [1, 3, 16, 16]}
    request = {"models": [model, model], "threads": 1, "repeats": 3, "max_seconds": 1, "seed": 0}
    with pytest.raises(BrokenPipeError):
        latency_worker.serve(io.BytesIO(json.dumps(request).encode() + b"\n" + data * 2), deaf)
