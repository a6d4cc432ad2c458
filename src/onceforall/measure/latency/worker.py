"""Sampling of latency: the same code here and on a machine at the other end of ssh.

The text of this file is sent to remote machines and run there, so it imports nothing of ours, the
standard library alone at the top, and keeps to Python 3.8. A remote machine needs python3 and
onnxruntime, nothing is left on its disk.

What it reads from standard input: a line of JSON, the request, then the models one after the
other. What it writes to standard output: lines of JSON, each after ``MARK``, for a login may
print lines of its own.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

MARK = "@onceforall "

# A sample lasts at least this long: short runs are repeated and averaged.
_MIN_SAMPLE_MS = 1.0
_MAX_RUNS_PER_SAMPLE = 64
_MIN_REPEATS = 3
# Candidates between two samples of the sentinel.
_SENTINEL_EVERY = 2


class Subject:
    """A loaded network and its samples.

    Attributes:
        run: Runs it once and returns the milliseconds that it took.
        runs_per_sample: Runs that one sample averages.
        samples: Moment in seconds and milliseconds of each sample.
        disturbed: Samples during which the system took the processor away.
    """

    def __init__(self, run: Callable[[], float]) -> None:
        self.run = run
        self.runs_per_sample = 1
        self.samples: list[tuple[float, float]] = []
        self.disturbed = 0

    def warm_up(self, max_ms: float = 500.0) -> None:
        """Run until two medians of three agree within 3 %, and set the runs of one sample."""
        recent = [self.run() for _ in range(3)]
        spent, before = sum(recent), math.inf
        while True:
            now = statistics.median(recent)
            if abs(now - before) <= 0.03 * now or spent > max_ms:
                break
            before = now
            recent = [self.run() for _ in range(3)]
            spent += sum(recent)
        wanted = math.ceil(_MIN_SAMPLE_MS / max(now, 1e-6))
        self.runs_per_sample = max(1, min(wanted, _MAX_RUNS_PER_SAMPLE))

    def sample(self, watch: bool) -> None:
        """Take one sample; if watched, leave out the time that other programs had."""
        self.run()  # brings code and weights back into the caches; not counted
        before = time.thread_time()
        total = sum(self.run() for _ in range(self.runs_per_sample))
        if watch:
            own = (time.thread_time() - before) * 1e3
            # Clocks of a thread may be coarse: nothing at all is not what it took.
            if own > 0 and total - own > 0.05 * total + 0.05:
                self.disturbed += 1
                total = own
        self.samples.append((time.perf_counter(), total / self.runs_per_sample))


def sample_passes(
    subjects: Sequence[Subject],
    sentinel: Subject,
    order: random.Random,
    *,
    repeats: int,
    max_seconds: float | None,
    watch: bool,
    after_pass: Callable[[int], None] = lambda done: None,
) -> None:
    """Take interleaved passes over ``subjects`` until each has its samples.

    Args:
        subjects: Warm networks; their samples are added to.
        sentinel: Sampled in between.
        order: Decides the order of each pass.
        repeats: Passes.
        max_seconds: Start no further pass after this long, once there are 3.
        watch: Whether runs are on this thread, so that lost time shows.
        after_pass: Told the number of passes done.
    """
    deadline = math.inf if max_seconds is None else time.perf_counter() + max_seconds
    shuffled = list(subjects)
    for done in range(repeats):
        if done >= _MIN_REPEATS and time.perf_counter() > deadline:
            break
        order.shuffle(shuffled)
        for position, subject in enumerate(shuffled):
            if position % _SENTINEL_EVERY == 0:
                sentinel.sample(watch)
            subject.sample(watch)
        after_pass(done + 1)
    sentinel.sample(watch)


def ort_runner(runtime: Any, model: bytes, images: Any, threads: int) -> Callable[[], float]:
    """Load a model into ONNX Runtime with its input bound; return what runs it once."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors only: the rest is printed to the terminal
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, images)
    binding.bind_output(session.get_outputs()[0].name)

    def run() -> float:
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        return (time.perf_counter() - start) * 1e3

    return run


def cpu_name() -> str:
    """Return the model name of this processor, or of the board where Linux names only that."""
    try:
        with open("/proc/cpuinfo") as file:
            pairs = [line.split(":", 1) for line in file if ":" in line]
    except OSError:
        pairs = []
    for wanted in ("model name", "Model", "Hardware"):
        for name, value in pairs:
            if name.strip() == wanted:
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return the logical processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def serve(source: BinaryIO, answer: Callable[[dict[str, Any]], None]) -> None:
    """Answer one request: say what machine this is, or measure models."""
    request = json.loads(source.readline())
    try:
        import onnxruntime  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        answer({"kind": "missing", "package": "onnxruntime", "reason": str(error)})
        return
    answer(
        {
            "kind": "facts",
            "device": cpu_name(),
            "cores": cores(),
            "runtime": "onnxruntime " + onnxruntime.__version__,
            "system": platform.platform(terse=True),
        }
    )
    if not request["models"]:
        return
    subjects = []
    for model in request["models"]:
        try:
            data = with_weights(source.read(model["bytes"]), model["weights"])
            subject = Subject(
                ort_runner(onnxruntime, data, _images(model["shape"]), request["threads"])
            )
            subject.warm_up()
        except Exception as error:  # whatever it is, it goes over the wire
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            answer({"kind": "failed", "model": model["name"], "reason": reason})
            return
        subjects.append(subject)
    sample_passes(
        subjects[1:],
        subjects[0],
        random.Random(request["seed"]),
        repeats=request["repeats"],
        max_seconds=request["max_seconds"],
        watch=request["threads"] == 1,
        # Where nobody listens any more, this fails, and so the program ends.
        after_pass=lambda done: answer({"kind": "pass", "done": done}),
    )
    answer(
        {
            "kind": "samples",
            "models": [{"samples": s.samples, "disturbed": s.disturbed} for s in subjects],
        }
    )


def with_weights(model: bytes, weights: Sequence[Sequence[float]]) -> bytes:
    """Return a model with random numbers put in where its random weights were cut out.

    Args:
        model: ONNX file without them.
        weights: For each, in order: where in ``model`` it belongs, how many float32 numbers it
            has, and their standard deviation.
    """
    if not weights:
        return model
    import numpy

    generator, parts, start = numpy.random.RandomState(0), [], 0
    for place, count, deviation in weights:
        values = generator.standard_normal(int(count)) * deviation
        parts += [model[start : int(place)], values.astype("<f4").tobytes()]
        start = int(place)
    return b"".join([*parts, model[start:]])


def _images(shape: Sequence[int]) -> Any:
    import numpy

    return numpy.random.RandomState(0).standard_normal(shape).astype(numpy.float32)


def main() -> None:
    """Serve one request from standard input."""

    def answer(value: dict[str, Any]) -> None:
        print(MARK + json.dumps(value), flush=True)

    serve(sys.stdin.buffer, answer)


if __name__ == "__main__":
    main()
