"""An experiment in one command: phases of one's own, a grid watched, shipped and fine-tuned."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from onceforall.artifacts import Request
from onceforall.errors import ArchError, ConfigError
from onceforall.files import read_json
from onceforall.job.pipeline import Done, run_all, steps_of
from onceforall.job.recipes import named_recipe
from onceforall.job.run import run as run_job
from onceforall.job.status import read_status, status_lines
from onceforall.job.steps.finetune import Tuning, finetune_all, usual_tuning
from onceforall.job.steps.finetune import _begin as begin
from onceforall.measure.costs import count_macs, count_params
from onceforall.supernets.families import ofanet
from onceforall.supernets.weights import load_saved_supernet
from tests.job.tiny_run import SETTINGS, write_images

PHASES = (
    "train.phases=["
    "{name: full, epochs: 20, learning_rate: 0.1, draw: largest, "
    "opened: {kernel_size: 1, expand_ratio: 1}},"
    "{name: kernel, epochs: 10, learning_rate: 0.1, teacher: frozen, trainable: transforms, "
    "opened: {kernel_size: [3], expand_ratio: 1}},"
    "{name: width, epochs: 10, learning_rate: 0.05, teacher: frozen, subnets_per_step: 2, "
    "sort_channels: 0}]"
)
FLAGS = (
    *(flag for flag in SETTINGS if not flag.startswith("train.epochs")),
    PHASES,
    "train.epochs_scale=0.1",
    "train.ema_decay=0.5",
    "supernet.width_mults=[]",
    "supernet.resolutions=[8]",
    "supernet.depths=[1]",
    "grid.every=1",
    "grid.kernel_sizes=[3,5]",
    "grid.expand_ratios=[2]",
    "grid.ship=true",
    "grid.finetune_epochs=10",
    "grid.finetune_rate=0.02",
)
GRID = ["R8-D1-E2-K3", "R8-D1-E2-K5"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "i.npz")


def do(images: Path, out: Path, *flags: str, until: str = "report") -> Done:
    request = Request(source=str(images), flags=(*FLAGS, *flags))
    cpu = torch.device("cpu")
    return run_all(request, out, tell=lambda event: None, until=until, device=cpu)


@pytest.fixture(scope="module")
def done(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return do(images, tmp_path_factory.mktemp("experiment") / "run")


def test_the_steps_are_those_of_a_grid(done: Done) -> None:
    steps = [event["step"] for event in done.run.folder.read_events("step_done")]
    assert steps == ["train", "models", "finetune"]
    assert steps_of(done.run.config) == ("plan", "train", "models", "finetune", "report")
    assert {card.name for card in done.cards} == {
        *GRID, *(f"{name}-finetune1" for name in GRID)
    }  # fmt: skip
    assert any("R8-D1-E2-K3" in line for line in done.closing_lines)


def test_the_table_has_each_before_and_after(done: Done) -> None:
    rows = list(csv.DictReader(done.run.folder.tuned.read_text().splitlines()))
    assert [row["model"] for row in rows] == GRID
    cards = {card.name: card for card in done.cards}
    for row, kernel_size in zip(rows, ("3", "5"), strict=True):
        before, after = cards[row["model"]], cards[f"{row['model']}-finetune1"]
        assert (row["kernel_size"], row["depth"], row["expand_ratio"]) == (kernel_size, "1", "2")
        assert float(row["top1_before"]) == before.top1
        assert float(row["top1_after"]) == after.top1
        assert int(row["macs"]) == count_macs(before.blueprint, resolution=8)
        assert int(row["params"]) == count_params(before.blueprint)
    assert "Before and after fine-tuning" in done.report.read_text()


def test_the_grid_is_watched_as_far_as_it_is_open(done: Done) -> None:
    epochs = done.run.folder.read_events("epoch")
    watched = {event["phase"]: list(event["grid"]) for event in epochs if "grid" in event}
    # The grid has no subnet of the widest: what is open of it is the largest then.
    assert watched == {"full": ["largest"], "kernel": ["largest"], "width": GRID}
    status = read_status(done.run.folder)
    assert status.grid == epochs[-1]["grid"]
    assert any(line.startswith("grid of 2: mean") for line in status_lines(status))
    best = read_json(done.run.folder.best.with_suffix(".json"))
    means = [event["grid_mean"] for event in epochs if event["phase"] == "width"]
    assert best["phase"] == "width" and best["mean_top1"] == pytest.approx(max(means), abs=1e-5)
    net, _ = load_saved_supernet(done.run.folder.best)
    assert net.spec == done.run.spec


@pytest.mark.parametrize(("phase", "before"), [("kernel", "full"), ("width", "kernel")])
def test_training_entered_at_a_phase_ends_with_the_same_bits(
    done: Done, images: Path, phase: str, before: str, tmp_path: Path
) -> None:
    init = done.run.folder.phases / f"{before}.safetensors"
    flags = (f"train.start_at={phase}", f"train.init={init}")
    entered = do(images, tmp_path / "run", *flags, until="train").run.folder
    first = safetensors.torch.load_file(done.run.folder.supernet)
    second = safetensors.torch.load_file(entered.supernet)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    phases = {event["phase"] for event in entered.read_events("epoch")}
    assert before not in phases and "width" in phases


def test_entering_needs_weights_and_a_phase(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'width' needs train\.init"):
        do(images, tmp_path / "a", "train.start_at=width", until="plan")
    with pytest.raises(ConfigError, match="phase 'depth' is not one of full, kernel, width"):
        do(images, tmp_path / "b", "train.start_at=depth", until="plan")


def test_only_the_transforms_learnt_in_their_phase(done: Done) -> None:
    full, kernel = (
        safetensors.torch.load_file(done.run.folder.phases / f"{name}.safetensors")
        for name in ("full", "kernel")
    )
    changed = {name for name in full if not torch.equal(full[name], kernel[name])}
    assert changed == {name for name in full if ".transforms." in name}


def test_fine_tuning_all_again_does_nothing(done: Done) -> None:
    run = done.run
    before = {card.name: run.folder.card(card.name).stat().st_mtime_ns for card in done.cards}
    again = finetune_all(run, usual_tuning(run, epochs=1, distill=True))
    assert [card.finetuned_from for card in again] == GRID
    assert before == {n: run.folder.card(n).stat().st_mtime_ns for n in before}
    with pytest.raises(ConfigError, match=r"fine-tuned with learning_rate 0\.02, not 0\.5"):
        finetune_all(run, usual_tuning(run, epochs=1, learning_rate=0.5, distill=True))


def test_another_rate_of_fine_tuning_is_done_anew(done: Done, images: Path, tmp_path: Path) -> None:
    shutil.copytree(done.run.folder.path, tmp_path / "run")
    again = do(images, tmp_path / "run", "grid.finetune_rate=0.05")
    tuned = {card.name: card for card in again.cards if card.finetuned_from}
    assert set(tuned) == {f"{name}-finetune1" for name in GRID}
    for name, card in tuned.items():
        assert card.finetune_settings is not None
        assert card.finetune_settings.learning_rate == 0.05
        assert (tmp_path / "run" / "earlier" / "01" / "models" / name / "card.json").is_file()
    assert not list((tmp_path / "run" / "checkpoints").glob("*-finetune*"))


def test_what_follows_training_is_done_by_the_first_of_a_launchers_ranks(
    images: Path, tmp_path: Path
) -> None:
    """Fine-tuning is a training too: alone, for the others have ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [word for each in FLAGS for word in ("--set", each)]
    command = [sys.executable, "-m", "onceforall", "run", str(images), "--out", tmp_path / "run"]
    processes = [
        subprocess.Popen(
            [*command, *flags],
            env=os.environ
            | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
            | {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for name in GRID:
        assert (tmp_path / "run" / "models" / f"{name}-finetune1" / "card.json").is_file()


def test_what_other_fine_tuning_left_is_dropped(done: Done, tmp_path: Path) -> None:
    card, how = done.cards[0], Tuning(epochs=1, learning_rate=0.1, distill=False)
    folder = tmp_path / "left"
    begin(folder, card, how)
    (folder / "step.pt").write_bytes(b"x")
    begin(folder, card, how)
    assert (folder / "step.pt").is_file(), "the same goes on"
    for other in (
        (card, Tuning(epochs=1, learning_rate=0.2, distill=False)),
        (done.cards[1], how),
    ):
        begin(folder, *other)
        assert not (folder / "step.pt").is_file()
        (folder / "step.pt").write_bytes(b"x")


def test_wrong_requests_are_refused_before_anything_is_written(
    images: Path, tmp_path: Path
) -> None:
    for flag, error, says in (
        ("grid.depths=[3]", ArchError, "no depth is elastic"),
        ("search.limits.macs=1e5", ConfigError, "limit macs has no effect: grid.ship"),
        ("train.plan=none", ConfigError, "train.plan"),
        ("train.phases=[{name: a}]", ConfigError, "train.phases.0.epochs"),
        ("train.distillation=alpha", ConfigError, "needs train.plan sandwich"),
    ):
        with pytest.raises(error, match=says):
            do(images, tmp_path / "run", flag)
        assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"epochs_scale.*shortens a length"):
        run_job(images, out=tmp_path / "c", settings={"train.epochs_scale": 0.1})
    with pytest.raises(ConfigError, match="shorten with --epochs-scale"):
        run_job(images, out=tmp_path / "d", recipe="cifar10-ofanet", budget=60)


def test_the_recipe_is_the_published_experiment() -> None:
    recipe = named_recipe(
        "cifar10-ofanet", "cifar10", image_side=32, num_train=50_000, num_classes=10
    )
    spec = recipe.spec(10)
    assert spec == ofanet()
    phases = recipe.plan(spec).phases
    assert [phase.name for phase in phases] == ["full", "kernel", "depth", "width"]
    assert [phase.epochs for phase in phases] == [180, 25, 25, 25]
    assert [phase.learning_rate for phase in phases] == [2.6, 0.96, 0.08, 0.08]
    assert [phase.trainable for phase in phases] == ["all", "transforms", "all", "all"]
    assert [phase.teacher for phase in phases] == ["none", "frozen", "frozen", "frozen"]
    opened = [phase.opened.restrict(spec.space).size for phase in phases]
    assert opened == [1, 1, 4, 8]
    plan = recipe.plan(spec)
    assert (plan.momentum, plan.weight_decay, plan.reference_batch) == (0.9, 3e-5, 2048)
    assert len(recipe.grid_archs(spec.space)) == 8 and recipe.grid.finetune_epochs == 25
    off = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"distillation": "none"})}
    )
    assert {phase.teacher for phase in off.plan(spec).phases} == {"none"}
    short = recipe.train.model_copy(update={"epochs_scale": 0.1})
    short_plan = recipe.model_copy(update={"train": short}).plan(spec)
    assert [phase.epochs for phase in short_plan.phases] == pytest.approx([18, 2.5, 2.5, 2.5])
    assert short_plan.phases[0].warmup_epochs == pytest.approx(0.5)
