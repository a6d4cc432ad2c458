"""Winners train on alone for a share of the time, and ship as what is better."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import pytest
import torch

from onceforall.artifacts import BaselineStart, Card, Confirmed, Request, Tuned
from onceforall.deploy.model_folder import verify_folder
from onceforall.errors import ConfigError, Interrupted
from onceforall.files import read_json
from onceforall.job.clock import Clock
from onceforall.job.context import Event, Run
from onceforall.job.pipeline import run_all
from onceforall.job.start import open_run
from onceforall.job.steps.confirm import confirm_step
from onceforall.job.steps.confirm import winners as chosen
from onceforall.job.steps.ship import models_step
from onceforall.job.steps.tune import tune_winners, tuned_net
from onceforall.supernets.weights import load_saved_supernet
from tests.job.tiny_run import SETTINGS, write_images

pytest.importorskip("onnxruntime")
CPU = torch.device("cpu")


def winners(run: Run) -> dict[str, Confirmed]:
    return {f"net{number:02d}": point for number, point in enumerate(chosen(run), start=1)}


# Enough for a few passes over 120 images.
EACH_S = 2.5


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    images = write_images(folder / "images.npz")
    flags = (*SETTINGS, "train.epochs=2", "search.num_models=2", "search.finetune_share=0.2")
    request = Request(source=str(images), flags=flags, budget_s=60.0)
    run_all(request, folder / "run", tell=lambda event: None, until="search", device=CPU)
    confirm_step(open_run(folder / "run", tell=lambda event: None, device=CPU))
    return folder / "run"


@pytest.fixture
def run(searched: Path, tmp_path: Path) -> Run:
    """A run that has still to ship, with as much time as its winners need."""
    shutil.copytree(searched, tmp_path / "run")
    found = open_run(tmp_path / "run", tell=lambda event: None, device=CPU)
    assert found.estimate is not None and found.estimate.tune_s == 12.0
    tune_s = EACH_S * len(winners(found))
    return dataclasses.replace(
        found,
        clock=Clock(budget_s=1000.0),
        estimate=found.estimate.model_copy(update={"tune_s": tune_s / 2}),
    )


def test_winners_are_trained_on_and_ship_if_they_are_better(run: Run) -> None:
    started = time.monotonic()
    models_step(run)
    took = time.monotonic() - started
    found = winners(run)
    records = [Tuned.read(path) for path in run.folder.checkpoints.rglob("tuned.json")]
    by_arch = {record.arch: record for record in records}
    assert by_arch.keys() == {point.arch for point in found.values()}
    for record in records:
        assert record.epochs > 0 and 0.5 * EACH_S < record.seconds < 2 * EACH_S
    assert took > sum(record.seconds for record in records)
    cards = run.folder.read_cards()
    assert len(cards) == len(found)
    for card in cards:
        record = by_arch[card.arch]
        if record.is_better:
            assert card.tuned_epochs == record.epochs and card.valid_top1 == record.valid_top1
            assert card.finetune_settings is not None and "extracted_bitwise" not in card.checks
        else:
            assert card.tuned_epochs is None and card.checks["extracted_bitwise"]
        verify_folder(run.folder.models / card.name)
    # What is done is found again, also by a run that has no time left.
    before = {
        path: path.stat().st_mtime_ns for path in run.folder.path.rglob("*") if path.is_file()
    }
    tune_winners(dataclasses.replace(run, clock=Clock(budget_s=1.0)), found)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_one_that_is_no_better_ships_as_the_supernet_left_it(run: Run) -> None:
    found = winners(run)
    tune_winners(run, found)
    for path in run.folder.checkpoints.rglob("tuned.json"):
        record = Tuned.read(path)
        worse = record.model_copy(update={"valid_top1": record.valid_top1_before})
        worse.write(path)
    assert [tuned_net(run, point.arch) for point in found.values()] == [None] * len(found)
    models_step(run)
    assert [card.tuned_epochs for card in run.folder.read_cards()] == [None] * len(found)


def test_training_on_changes_weights_and_nothing_of_the_supernet(run: Run) -> None:
    before = run.folder.supernet.read_bytes()
    (name, point), *_ = winners(run).items()
    tune_winners(run, {name: point})
    path = next(run.folder.checkpoints.rglob("tuned.json"))
    better = Tuned.read(path).model_copy(update={"valid_top1": 1.0, "valid_top1_before": 0.0})
    better.write(path)
    tuned = tuned_net(run, point.arch)
    assert tuned is not None and run.folder.supernet.read_bytes() == before
    net, _ = load_saved_supernet(run.folder.supernet)
    cut_out = net.extract(point.arch).state_dict()
    for name, tensor in tuned[0].state_dict().items():
        if name.endswith("conv.weight"):
            assert not torch.equal(tensor, cut_out[name]), name


def test_interrupted_it_goes_on_with_the_time_that_it_had(run: Run) -> None:
    point = next(iter(winners(run).values()))
    told: list[Event] = []
    stopping = dataclasses.replace(run, tell=told.append, should_stop=lambda: len(told) > 3)
    with pytest.raises(Interrupted):
        tune_winners(stopping, {"net01": point})
    (path,) = run.folder.checkpoints.rglob("started.json")
    before = BaselineStart.read(path)
    later = dataclasses.replace(run, clock=Clock(budget_s=3.0))
    tune_winners(later, {"net01": point})
    assert BaselineStart.read(path) == before and (path.parent / "tuned.json").is_file()


@pytest.mark.parametrize("budget_s", [float("inf"), 1.0])
def test_without_time_winners_ship_as_they_are(run: Run, budget_s: float) -> None:
    tune_winners(dataclasses.replace(run, clock=Clock(budget_s=budget_s)), winners(run))
    assert not (run.folder.checkpoints / "winners").exists()


def test_a_limit_trains_the_one_that_ships(searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched, tmp_path / "run")
    settings = read_json(tmp_path / "run" / "search" / "confirmed.json")
    slowest = max(point["latency_ms"] for point in settings["points"])
    run = open_run(tmp_path / "run", tell=lambda event: None, device=CPU)
    search = run.config.search.model_copy(update={"limits": {"latency_ms": 2 * slowest}})
    assert run.estimate is not None
    run = dataclasses.replace(
        run,
        config=run.config.model_copy(update={"search": search}),
        clock=Clock(budget_s=1000.0),
        estimate=run.estimate.model_copy(update={"tune_s": EACH_S / 2}),
    )
    models_step(run)
    (tuned,) = (Tuned.read(path) for path in run.folder.checkpoints.rglob("tuned.json"))
    (card,) = run.folder.read_cards()
    assert isinstance(card, Card) and card.arch == tuned.arch


def test_a_time_that_is_over_has_no_share_left(searched: Path) -> None:
    saved = open_run(searched, tell=lambda event: None, device=CPU).folder.read_settings()
    flags = (*saved.request.flags, "search.finetune_share=0.4")
    with pytest.raises(ConfigError, match=r"is over; ofa finetune .* --all"):
        run_all(
            saved.request.model_copy(update={"flags": flags}),
            searched,
            tell=lambda event: None,
            device=CPU,
        )
