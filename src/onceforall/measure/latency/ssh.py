"""Latency on another machine over ssh: ONNX Runtime there, nothing installed or left there.

Each group of candidates is one call of ssh. Its standard input is the text of
``worker.py``, a request, and the ONNX files, of which random weights are cut out (the
other end makes its own, so megabytes become kilobytes). Its answer is the raw samples; drift,
median and spread come from the same code as on this machine. Port, key and the like belong in
the user's own ssh configuration.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceforall.errors import ConfigError, MeasurementError
from onceforall.measure.latency import worker as latency_worker
from onceforall.measure.latency.candidate import (
    Candidate,
    Hardware,
    Samples,
    candidate_onnx,
    input_shape,
)
from onceforall.measure.latency.worker import MARK
from onceforall.measure.onnx.model import import_extra

SSH_PREFIX = "ssh:"
# Names the ssh program where it is not the one on the PATH.
SSH_VARIABLE = "ONCEFORALL_SSH"

# It never asks for anything, gives up on a silent machine, and notices a connection that is dead.
_OPTIONS = ("-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15")
# A first character other than a letter or digit could be taken for an option of ssh.
_HOST = re.compile(r"(?:[A-Za-z0-9_][\w.+-]*@)?[A-Za-z0-9_][\w.:%-]*", re.ASCII)
# Reads the worker's text and runs it; what follows the text is the worker's to read.
_BOOTSTRAP = (
    "import sys; sys.version_info < (3, 8) and sys.exit('Python 3.8 or newer is needed'); "
    "exec(compile(sys.stdin.buffer.read({size}), 'onceforall', 'exec'), {{'__name__': '__main__'}})"
)
# Seconds that a call may take beyond its sampling: to connect, send, load and warm up.
_PATIENCE_S = 900.0
# Bytes of random weights below which a tensor is sent as it is.
_SMALL = 256


@dataclass(slots=True, kw_only=True)
class SshOrt:
    """ONNX Runtime on the processor of a machine that ssh reaches.

    Attributes:
        host: ``HOST`` or ``USER@HOST``, or a name from the user's ssh configuration.
        threads: Processor threads of a run.
        program: The ssh program; empty for ``ONCEFORALL_SSH``, or ``ssh`` on the PATH.
        patience_s: Seconds that one call may take beyond its sampling.

    Raises:
        ConfigError: If ``host`` cannot be the name of a machine.
    """

    host: str
    threads: int = 1
    program: str = ""
    patience_s: float = _PATIENCE_S
    _hardware: Hardware | None = None

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise ConfigError(
                f"latency target {self.name!r} is not of the form {SSH_PREFIX}USER@HOST"
            )

    @property
    def name(self) -> str:
        """Name in records and on the command line."""
        return SSH_PREFIX + self.host

    @property
    def hardware(self) -> Hardware:
        """Facts about the machine and its runtime; asked for once.

        Raises:
            MeasurementError: If it cannot be reached, or lacks python3 or onnxruntime.
        """
        if self._hardware is None:
            self._call({"models": []}, [], limit_s=self.patience_s)
            assert self._hardware is not None
        return self._hardware

    def sample_group(
        self,
        candidates: Sequence[Candidate],
        *,
        batch_size: int,
        repeats: int,
        max_seconds: float | None,
        seed: int,
    ) -> list[Samples]:
        """Return the samples of each candidate; the first is the sentinel of the others.

        Raises:
            MeasurementError: If the machine cannot be reached or cannot run a candidate, or the
                connection ends.
        """
        models, parts = [], []
        for candidate in candidates:
            data = candidate_onnx(candidate, batch_size)
            weights: list[tuple[int, int, float]] = []
            if candidate.onnx is None and candidate.weights is None:
                data, weights = without_weights(data)
            shape = input_shape(candidate, batch_size)
            models.append(
                {"name": candidate.name, "bytes": len(data), "weights": weights, "shape": shape}
            )
            parts.append(data)
        request = {
            "models": models,
            "threads": self.threads,
            "repeats": repeats,
            "max_seconds": max_seconds,
            "seed": seed,
        }
        # Late, each candidate still gets its three samples.
        limit_s = self.patience_s + (self.patience_s if max_seconds is None else 2 * max_seconds)
        answers = self._call(request, parts, limit_s=limit_s)
        return self._samples(answers, len(candidates))

    def _samples(self, answers: Sequence[dict[str, Any]], count: int) -> list[Samples]:
        """Return the samples in the answers, checked."""
        try:
            (found,) = (answer["models"] for answer in answers if answer["kind"] == "samples")
            samples = [
                Samples(
                    samples=tuple((float(moment), float(ms)) for moment, ms in one["samples"]),
                    disturbed=int(one["disturbed"]),
                )
                for one in found
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise MeasurementError(f"{self.name}: its answer is damaged: {error!r}") from error
        if len(samples) != count or not all(
            one.samples and all(math.isfinite(ms) and ms > 0 for _, ms in one.samples)
            for one in samples
        ):
            raise MeasurementError(f"{self.name}: its answer lacks samples")
        return samples

    def _call(
        self, request: dict[str, Any], parts: Sequence[bytes], *, limit_s: float
    ) -> list[dict[str, Any]]:
        """Run the worker there and return its answers; keep its facts."""
        worker = Path(latency_worker.__file__).read_bytes()
        code = _BOOTSTRAP.format(size=len(worker))
        program = self.program or os.environ.get(SSH_VARIABLE) or "ssh"
        command = [program, *_OPTIONS, "--", self.host, shlex.join(["python3", "-c", code])]
        try:
            done = subprocess.run(
                command,
                input=b"".join([worker, json.dumps(request).encode(), b"\n", *parts]),
                capture_output=True,
                timeout=limit_s,
                check=False,
                # Ctrl-C is for us: the group under way ends, and what it measured is kept.
                start_new_session=True,
            )
        except OSError as error:
            raise MeasurementError(f"{self.name}: cannot start {program!r}: {error}") from error
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"{self.name}: no answer within {limit_s:.0f} s") from error
        answers = self._answers(done.stdout)
        self._check(answers, done)
        try:
            facts = Hardware.from_json(next(a for a in answers if a["kind"] == "facts"))
        except (KeyError, TypeError, ValueError) as error:
            raise MeasurementError(f"{self.name}: its answer is damaged: {error!r}") from error
        if self._hardware not in (None, facts):
            raise MeasurementError(
                f"{self.name}: it was {self._hardware} before and is {facts} now"
            )
        self._hardware = facts
        return answers

    def _answers(self, output: bytes) -> list[dict[str, Any]]:
        """Return the worker's lines; whatever else a login prints is left out."""
        lines = output.decode(errors="replace").splitlines()
        try:
            found = [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]
        except ValueError as error:
            raise MeasurementError(f"{self.name}: its answer is damaged: {error}") from error
        return [answer for answer in found if isinstance(answer, dict) and "kind" in answer]

    def _check(
        self, answers: Sequence[dict[str, Any]], done: subprocess.CompletedProcess[bytes]
    ) -> None:
        """Raise MeasurementError if the call failed, and say what to do."""
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        last = said[-1].strip() if said else "it said nothing"
        for answer in answers:
            if answer["kind"] == "missing":
                raise MeasurementError(
                    f"{self.name}: {answer['package']} is not installed there: run there  "
                    f"python3 -m pip install {answer['package']}"
                )
            if answer["kind"] == "failed":
                raise MeasurementError(
                    f"{self.name} cannot run {answer['model']!r}: {answer['reason']}"
                )
        if done.returncode == 0 and any(answer["kind"] == "facts" for answer in answers):
            return
        if answers:
            raise MeasurementError(
                f"{self.name}: the connection or the worker ended while measuring "
                f"(status {done.returncode}): {last}"
            )
        if done.returncode == 255:
            raise MeasurementError(f"{self.name}: ssh cannot connect: {last}")
        if done.returncode == 127:
            raise MeasurementError(f"{self.name}: python3 is not installed there: {last}")
        raise MeasurementError(
            f"{self.name}: python3 there failed (status {done.returncode}): {last}"
        )


def without_weights(model: bytes) -> tuple[bytes, list[tuple[int, int, float]]]:
    """Return a model without its large weights, and where they were.

    Args:
        model: ONNX file of random float32 weights.

    Returns:
        The rest of the file, and for each weight its place there, how many numbers it has, and
        their standard deviation: what ``latency_worker.with_weights`` takes.
    """
    onnx = import_extra("onnx", "onnx")
    parts, weights, start, kept = [], [], 0, 0
    for tensor in onnx.load_from_string(model).graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        # Zeros (biases) stay: they are not random.
        if values.dtype != "float32" or len(tensor.raw_data) < _SMALL or not values.any():
            continue
        place = model.index(tensor.raw_data, start)
        parts.append(model[start:place])
        kept += place - start
        weights.append((kept, int(values.size), float(values.std())))
        start = place + len(tensor.raw_data)
    return b"".join([*parts, model[start:]]), weights
