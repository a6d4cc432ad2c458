"""The main parts on a GPU, end to end: train, resume, evaluate, recalibrate, latency, two ranks.

    python benchmarks/accelerator_check.py
    python benchmarks/accelerator_check.py --device cpu                   (whether the checks run)
    torchrun --nproc-per-node 2 -m onceforall run digits --out RUN ...    (what the last check does)

Prints a line for each check and exits with 1 if one fails. Takes a few minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from onceforall.data import Augmentation, ImageArrays, ResidentBatches
from onceforall.measure.calibrate import recalibrate_bn
from onceforall.supernets.families import dense_images, mobilenet_v3
from onceforall.supernets.supernet import Supernet
from onceforall.training.engine import train
from onceforall.training.optimizer import make_optimizer, set_learning_rate
from onceforall.training.plan import sandwich_plan
from onceforall.training.ranks import Ranks
from onceforall.training.settings import TrainOptions
from onceforall.training.step import StepContext, accumulate_gradients

SHORT = (
    "train.epochs=4", "evaluate.num_archs=16", "latency.budget_s=5", "search.generations=10",
    "search.num_models=3",
)  # fmt: skip
SPEC = dense_images(num_classes=10, resolutions=(24, 32), widths=(16, 32, 64))
PLAN = sandwich_plan(epochs=2, learning_rate=0.05, reference_batch=64, subnets_per_step=3)


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


def batches(device: torch.device, *, max_device_bytes: int | None = None) -> ResidentBatches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return ResidentBatches(
        ImageArrays(images=images, labels=torch.arange(512) % 10),
        augmentation=Augmentation(color="torch", cutout=0.2, padding_mode="reflect"),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        batch_size=64,
        seed=0,
        device=device,
        max_device_bytes=max_device_bytes,
    )


def fresh_net(device: torch.device) -> Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Supernet(SPEC).to(device, memory_format=torch.channels_last)


def extraction_agrees(device: torch.device) -> str:
    worst = 0.0
    for spec in (mobilenet_v3(num_classes=10), dense_images(num_classes=10)):
        net = Supernet(spec).to(device, memory_format=torch.channels_last).eval()
        images = torch.randn(8, 3, 64, 64, device=device).to(memory_format=torch.channels_last)
        for arch in (spec.space.largest, spec.space.smallest):
            recalibrate_bn(net, [images], arch=arch)
            with torch.no_grad():
                inside, outside = net(images, arch), net.extract(arch)(images)
            worst = max(worst, float((inside - outside).abs().max() / inside.abs().max()))
    assert worst <= 1e-4, worst
    return f"supernet and extracted subnet differ by {worst:.1e} relative"


@contextlib.contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    """Raise where the host waits for the GPU, or copies as if it had to."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def host_never_waits(device: torch.device) -> str:
    net, phase = fresh_net(device).train(), PLAN.phases[0]
    context = StepContext(plan=PLAN, phase=phase, ranks=Ranks())
    optimizer = make_optimizer(net, momentum=0.9, weight_decay=1e-4)
    set_learning_rate(optimizer, 0.05)
    data, results = batches(device), []
    on_host = batches(device, max_device_bytes=0)
    for step in range(5):
        is_warm = step > 1  # the first ones load kernels
        with waiting_is_an_error(device) if is_warm else contextlib.nullcontext():
            images, labels = (on_host if step == 4 else data).batch(0, step, resolution=32)
            space = SPEC.space.restrict(resolution=(32,))
            archs = [space.largest, space.smallest]
            numbers = accumulate_gradients(net, [(images, labels)], archs, context, votes=(False,))
            optimizer.step()
        results.append(numbers.read())
    assert all(r.label_loss > 0 for r in results)
    return f"batches and steps are queued without waiting; losses {results[-1].losses}"


def host_and_device_agree(device: torch.device) -> str:
    there, here = batches(device), batches(device, max_device_bytes=0)
    for step in range(there.steps_per_epoch):
        for a, b in zip(
            there.batch(1, step, resolution=24), here.batch(1, step, resolution=24), strict=True
        ):
            assert torch.equal(a, b)
    return "images that stay on the host give the same batches to the bit"


def training_repeats(device: torch.device, folder: Path) -> str:
    nets, seconds = [], []
    for deterministic in (False, False, True, True):
        net, started = fresh_net(device), time.perf_counter()
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        out = folder / f"repeat{len(nets)}"
        train(net, PLAN, batches(device), folder=out, options=TrainOptions(seed=0))
        torch.use_deterministic_algorithms(False)
        seconds.append(time.perf_counter() - started)
        nets.append(torch.cat([t.flatten().double().cpu() for t in net.state_dict().values()]))
    assert all(torch.isfinite(net).all() for net in nets)
    usual, repeating = (torch.equal(nets[i], nets[i + 1]) for i in (0, 2))
    return (
        f"two runs end with {'the same' if usual else 'other'} bytes, as PyTorch may choose "
        f"kernels; with deterministic ones {'the same' if repeating else 'other'}, in "
        f"{seconds[3] / seconds[1]:.2f} times the time"
    )


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
    assert same
    return "the newest checkpoint gives the supernet again, the same bytes"


def latency(folder: Path, device: torch.device) -> str:
    gpu = device.type == "cuda"
    ofa(
        "latency", "build", "ofa_mbv3_d234_e346_k357_w1.0",
        "--target", "torch-cuda:0" if gpu else "torch-cpu",
        "--budget", "60s" if gpu else "5s", "--out", folder / "latency.json",
    )  # fmt: skip
    return (folder / "latency.json").read_text()[:80]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    device = torch.device(parser.parse_args().device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "processor"
    print(name, torch.__version__)
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checks: dict[str, Callable[[], str]] = {
            "extraction": lambda: extraction_agrees(device),
            "waiting": lambda: host_never_waits(device),
            "host memory": lambda: host_and_device_agree(device),
            "repeating": lambda: training_repeats(device, folder),
            "run": lambda: whole_run(folder / "one", 1),
            "resume": lambda: resumes(folder / "again"),
            "latency": lambda: latency(folder, device),
        }
        if device.type == "cpu" or torch.cuda.device_count() > 1:
            checks["two ranks"] = lambda: whole_run(folder / "two", 2)
        for title, check in checks.items():
            try:
                print(f"{title}: {check()}", flush=True)
            except (AssertionError, RuntimeError, subprocess.CalledProcessError) as error:
                failed = True
                print(f"{title}: FAILED {error}", flush=True)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
