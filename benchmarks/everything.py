"""Every performance claim by one command: `make benchmarks`.

    python -m benchmarks.everything --list               what there is, as a table
    python -m benchmarks.everything                      all that this machine can do, one by one
    python -m benchmarks.everything forward costs        some
    python -m benchmarks.everything --short              a few seconds each: whether they run

Each script is a process of its own. A row of hardware, versions and time goes into
``docs/results/benchmarks.csv``, what it printed beside it, and both into the page; they are written
after every script, so that what was measured stays. ``--short`` writes nothing.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from onceforall.files import write_text
from onceforall.versions import versions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
DATA = Path(os.environ.get("ONCEFORALL_TEST_DATA", ROOT.parent / "shared" / "data"))
PAGE = ROOT / "docs" / "benchmarks.md"
MARK = "<!-- below: benchmarks/everything.py -->\n"
# Lines of an output that the page shows; all of them are in its file.
MOST_LINES = 30
COLUMNS = (
    "name", "status", "seconds", "processor", "cores", "gpu",
    "python", "torch", "onnxruntime", "command",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A script that backs a claim.

    Attributes:
        claim: What it measures, and the bar where there is one.
        script: File under ``benchmarks``.
        arguments: Of the script. ``{data}`` is the folder of shared data, ``{results}`` that of
            results, ``{scratch}`` a fresh one that is removed afterwards.
        short: Arguments of ``--short``; None where it takes long in any case.
        minutes: About how long it takes on two cores.
        needs: ``gpu``, or a path below the folder of shared data; empty for nothing.
    """

    claim: str
    script: str
    arguments: str = ""
    short: str | None = None
    minutes: float
    needs: str = ""

    @property
    def is_possible(self) -> bool:
        """Return whether this machine has what it needs."""
        if self.needs == "gpu":
            return torch.cuda.is_available()
        return not self.needs or (DATA / self.needs).exists()

    def command(self, scratch: Path, *, short: bool = False) -> list[str]:
        """Return the command line, to be run from the root of the repository."""
        chosen = (self.short or "") if short else self.arguments
        places = {"data": DATA, "results": RESULTS, "scratch": scratch}
        words = [word.format(**places) for word in shlex.split(chosen)]
        return [sys.executable, f"benchmarks/{self.script}", *words]


BENCHMARKS = {
    "forward": Benchmark(
        claim="a subnet in the supernet is at most 1.05 times slower than extracted",
        script="supernet_forward.py",
        short="--rounds 1 --batch-size 1 --resolution 32",
        minutes=2,
    ),
    "training-step": Benchmark(
        claim="a training step of a subnet takes at most 1.10 times the extracted network's",
        script="training_step.py",
        minutes=2,
    ),
    "depthwise": Benchmark(
        claim="gradients of large depthwise kernels take at most two thirds of PyTorch's time",
        script="depthwise_gradients.py",
        minutes=1,
    ),
    "recalibration": Benchmark(
        claim="recalibration is 2.5 times faster than the published way",
        script="bn_recalibration.py",
        minutes=3,
    ),
    "input": Benchmark(
        claim="reading JPEG files is twice as fast as the published transforms, per core",
        script="input_pipeline.py",
        short="--images 4 --rounds 1",
        minutes=3,
    ),
    "costs": Benchmark(
        claim="exact MACs and published latency of millions of archs a second and core",
        script="cost_tables.py",
        arguments="--data {data}/published",
        short="--data {data}/published --archs 2000 --checked 5 --repeats 1",
        minutes=1,
        needs="published/note10",
    ),
    "search": Benchmark(
        claim="searches with published files reach their bars with every seed",
        script="search_published.py",
        arguments="--data {data}/published",
        short="--data {data}/published --seeds 1",
        minutes=3,
        needs="published/acc_predictor.pth",
    ),
    "predictor": Benchmark(
        claim="Kendall tau of the predictor on ImageNet subnets that others measured",
        script="predictor_measured.py",
        arguments="--data {data}/measured",
        minutes=2,
        needs="measured",
    ),
    "latency": Benchmark(
        claim="a latency model's error on unseen networks beside that of measuring again",
        script="latency_model.py",
        arguments="--out {scratch}/latency --budget 300",
        minutes=8,
    ),
    "elastic-nets": Benchmark(
        claim="63 networks of torchvision and timm: the largest subnet is the original to the bit, "
        "others are right to 1e-10, costs exact",
        script="elasticize.py",
        arguments="--out {results}/elasticize.csv --anew",
        short="--nets torchvision:squeezenet1_0 --repeats 1",
        minutes=15,
    ),
    "elastic-step": Benchmark(
        claim="a training step of an elastic network takes at most 1.05 times the static one's, "
        "1.20 times at half width",
        script="elastic_any.py",
        arguments="step",
        minutes=5,
    ),
    "elastic-photos": Benchmark(
        claim="a trained ResNet-18's family on photographs: within 1 point of it, within 3 points "
        "at half the latency",
        script="elastic_photos.py",
        arguments="{data}/photos64 --out {scratch}/elastic --minutes 10",
        minutes=35,
        needs="photos64",
    ),
    "plans": Benchmark(
        claim="fronts of the training plans in the same time, on digits",
        script="plans_digits.py",
        arguments="--seconds 90 --seeds 2",
        minutes=10,
    ),
    "photos": Benchmark(
        claim="12 minutes on 5,000 photographs: 88 %, the whole command in its time",
        script="pictures.py",
        arguments="{data}/photos64 --budget 12m --csv {results}/pictures.csv",
        minutes=12,
        needs="photos64",
    ),
    "gpu-step": Benchmark(
        claim="images a second of a training step on a GPU, by layout and precision",
        script="accelerator_step.py",
        minutes=3,
        needs="gpu",
    ),
    "gpu-check": Benchmark(
        claim="train, resume, evaluate, measure and two ranks on a GPU",
        script="accelerator_check.py",
        minutes=5,
        needs="gpu",
    ),
}
# Hours each, or made of the runs of others: to be started by hand, as their docstrings say.
BY_HAND = {
    "ablations.py": "why the defaults for pictures are what they are",
    "accelerator_pictures.py": "subnets of one supernet of 28 minutes on a GPU reach their bars",
    "equal_time.py": "the supernet against the same networks trained alone",
    "ofanet_cifar10.py": "the published CIFAR-10 experiment",
    "plans_cifar10.py": "plans, distillation and sorting on CIFAR-10 in the same time",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a script did: exit status, wall time in seconds, and what it printed."""

    name: str
    status: int
    seconds: float
    text: str


def table() -> list[str]:
    """Return the lines of the table of all benchmarks, in Markdown."""
    rows = ["| name | script | what it measures | needs | minutes |", "|---|---|---|---|--:|"]
    for name, each in BENCHMARKS.items():
        needs = each.needs and (f"`{each.needs}`" if each.needs != "gpu" else "a GPU")
        rows.append(f"| `{name}` | `{each.script}` | {each.claim} | {needs} | {each.minutes:g} |")
    rows += [f"| | `{script}` | {claim} | by hand | |" for script, claim in BY_HAND.items()]
    return rows


def measure(name: str, *, short: bool) -> Outcome:
    """Run one script to its end; what goes wrong in it is part of its outcome."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            BENCHMARKS[name].command(Path(scratch), short=short),
            cwd=ROOT,
            env={**os.environ, "TMPDIR": scratch},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    seconds = round(time.monotonic() - started, 1)
    text = re.sub(rf"{re.escape(scratch)}(/tmp\w+)?", "{scratch}", done.stdout)
    for name_of, path in (("results", RESULTS), ("data", DATA)):
        text = text.replace(str(path), f"{{{name_of}}}")
    return Outcome(name=name, status=done.returncode, seconds=seconds, text=text)


def machine() -> dict[str, str]:
    """Return processor, cores and GPU by name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": str(os.cpu_count()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
    }


def keep(outcome: Outcome, folder: Path) -> None:
    """Put what a script did into ``folder``: a row, which replaces its older one, and its text."""
    each = BENCHMARKS[outcome.name]
    command = shlex.join(["python", f"benchmarks/{each.script}", *shlex.split(each.arguments)])
    about = {"name": outcome.name, "status": str(outcome.status), "seconds": str(outcome.seconds)}
    row = machine() | versions() | about | {"command": command}
    kept = {old["name"]: old for old in read_rows(folder)} | {outcome.name: row}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept[name] for name in BENCHMARKS if name in kept)
    (folder / "benchmarks").mkdir(parents=True, exist_ok=True)
    write_text(folder / "benchmarks" / f"{outcome.name}.txt", outcome.text)
    write_text(folder / "benchmarks.csv", text.getvalue())


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of what was measured so far."""
    path = folder / "benchmarks.csv"
    return list(csv.DictReader(io.StringIO(path.read_text()))) if path.is_file() else []


def write_page(page: Path, folder: Path) -> None:
    """Write the table of all benchmarks, and what was measured, behind the mark of a page."""
    lines = ["", *table(), ""]
    for row in read_rows(folder):
        claim = BENCHMARKS[row["name"]].claim
        where = ", ".join(filter(None, (row["processor"], f"{row['cores']} cores", row["gpu"])))
        lines += [f"## {claim[0].upper()}{claim[1:]}", ""]
        ended = "" if row["status"] == "0" else ", a bar is missed here,"
        lines += [f"`{row['command']}`: status {row['status']}{ended} after {row['seconds']} s;"]
        lines += [f"{where};"]
        lines += [
            f"Python {row['python']}, torch {row['torch']}, ONNX Runtime {row['onnxruntime']}"
        ]
        printed = (folder / "benchmarks" / f"{row['name']}.txt").read_text().rstrip().splitlines()
        if len(printed) > MOST_LINES:
            place = f"results/benchmarks/{row['name']}.txt"
            lines += ["", f"The last {MOST_LINES} of [{len(printed)} lines]({place}):"]
        lines += ["", "```text", *printed[-MOST_LINES:], "```", ""]
    write_text(page, page.read_text().partition(MARK)[0] + MARK + "\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; return 1 if a script ended with another status than 0."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--list", action="store_true", help="print the table, and do no more")
    parser.add_argument("--short", action="store_true", help="seconds each, nothing is written")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"benchmark {unknown[0]!r} is not one of {', '.join(BENCHMARKS)}")
    if given.list:
        print("\n".join(table()))
        return 0
    failed = 0
    for name in given.names or BENCHMARKS:
        each = BENCHMARKS[name]
        if not each.is_possible or (given.short and each.short is None):
            why = "it has no short form" if each.is_possible else f"it needs {each.needs}"
            print(f"{name}: left out, {why}")
            continue
        print(f"{name}: {each.claim} ...")
        outcome = measure(name, short=given.short)
        print(f"  status {outcome.status} after {outcome.seconds:.0f} s")
        failed += outcome.status != 0
        if not given.short:
            keep(outcome, RESULTS)
            write_page(PAGE, RESULTS)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
