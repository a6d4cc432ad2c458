"""The main parts on a GPU, end to end: train, resume, evaluate, recalibrate, latency, two ranks.

    python benchmarks/accelerator_check.py
    torchrun --nproc-per-node 2 -m onceforall run digits --out RUN ...   (what the last check does)

Prints a line for each check and exits with 1 if one fails. Takes a few minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from onceforall.measure.calibrate import recalibrate_bn
from onceforall.supernets.families import dense_images, mobilenet_v3
from onceforall.supernets.supernet import Supernet

SHORT = (
    "train.epochs=4", "evaluate.num_archs=16", "latency.budget_s=5", "search.generations=10",
    "search.num_models=3",
)  # fmt: skip


def ofa(*arguments: object, ranks: int = 1) -> None:
    launcher = [sys.executable, "-m", "onceforall"]
    if ranks > 1:
        launcher = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node", str(ranks), "-m", "onceforall",
        ]  # fmt: skip
    subprocess.run([*launcher, *map(str, arguments)], check=True)


def flags(*more: str) -> list[str]:
    return [part for setting in (*SHORT, *more) for part in ("--set", setting)]


def extraction_agrees() -> str:
    worst = 0.0
    for spec in (mobilenet_v3(num_classes=10), dense_images(num_classes=10)):
        net = Supernet(spec).cuda().to(memory_format=torch.channels_last).eval()
        images = torch.randn(8, 3, 64, 64, device="cuda").to(memory_format=torch.channels_last)
        for arch in (spec.space.largest, spec.space.smallest):
            recalibrate_bn(net, [images], arch=arch)
            inside, outside = net(images, arch), net.extract(arch)(images)
            worst = max(worst, float((inside - outside).abs().max() / inside.abs().max()))
    assert worst <= 1e-4, worst
    return f"supernet and extracted subnet differ by {worst:.1e} relative"


def whole_run(folder: Path, ranks: int) -> str:
    ofa("run", "digits", "--out", folder, *flags(), ranks=ranks)
    ofa("verify", folder)
    cards = [json.loads(path.read_text()) for path in folder.glob("models/*/card.json")]
    assert cards
    return f"{ranks} rank(s): {len(cards)} models, best {max(c['top1'] for c in cards):.1%}"


def resumes(folder: Path) -> str:
    ofa("train", "digits", "--out", folder, *flags("train.epochs=2"))
    supernet = (folder / "checkpoints/supernet.safetensors").read_bytes()
    (folder / "checkpoints/supernet.safetensors").unlink()
    ofa("train", "digits", "--out", folder, *flags("train.epochs=2"))
    same = supernet == (folder / "checkpoints/supernet.safetensors").read_bytes()
    return f"the newest checkpoint gives the supernet again, {'same' if same else 'other'} bytes"


def latency(folder: Path) -> str:
    ofa(
        "latency", "build", "ofa_mbv3_d234_e346_k357_w1.0", "--target", "torch-cuda",
        "--budget", "60s", "--out", folder / "gpu.json",
    )  # fmt: skip
    return (folder / "gpu.json").read_text()[:80]


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("there is no GPU")
    print(torch.cuda.get_device_name(), torch.__version__)
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checks: dict[str, Callable[[], str]] = {
            "extraction": extraction_agrees,
            "run": lambda: whole_run(folder / "one", 1),
            "resume": lambda: resumes(folder / "again"),
            "latency": lambda: latency(folder),
        }
        if torch.cuda.device_count() > 1:
            checks["two ranks"] = lambda: whole_run(folder / "two", 2)
        for title, check in checks.items():
            try:
                print(f"{title}: {check()}", flush=True)
            except (AssertionError, subprocess.CalledProcessError) as error:
                failed = True
                print(f"{title}: FAILED {error}", flush=True)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
