"""Subnets between the weights that a network was given and those that it was trained to."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import onceforall as ofa
from onceforall.artifacts import Request
from onceforall.cli.console import Screen
from onceforall.errors import CheckpointError, ConfigError
from onceforall.job import more_epochs
from onceforall.job.config import flag
from onceforall.job.context import Run
from onceforall.job.interpolation import (
    INTERPOLATION,
    Interpolation,
    size_of,
    subnets_beside,
    trained_subnets,
)
from onceforall.job.nets import net_flags, weights_flags
from onceforall.job.start import is_narrow, open_run, plan_run
from onceforall.job.steps.evaluate import evaluate_step
from onceforall.job.steps.interpolate import _best, _goodness, find_interpolation
from onceforall.job.steps.train import train_step
from onceforall.job.tasks.evaluate_any import EvalRequest, evaluate_request
from onceforall.job.teacher import decide_teacher
from onceforall.job.weights import new_supernet, trained_supernet
from onceforall.measure.accuracy import Accuracy
from onceforall.supernets.graphs.supernet import GraphSupernet
from onceforall.supernets.nets import ElasticNet, interpolated
from onceforall.supernets.weights import load_saved_supernet
from onceforall.training.ranks import Ranks
from tests.job.own_nets import make_small
from tests.job.test_own_network import NET, settings
from tests.job.tiny_run import write_images


def small_run(folder: Path, weights: Path, **changed: object) -> Run:
    folder.mkdir(exist_ok=True)
    images = folder / "images.npz"
    if not images.is_file():
        write_images(images)
    flags = [*net_flags(NET), *weights_flags(NET, str(weights))]
    flags += [flag(key, value) for key, value in (settings() | changed).items()]
    request = Request(source=str(images), flags=tuple(flags))
    return plan_run(request, folder / "run", tell=lambda event: None)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that know the images."""
    folder = tmp_path_factory.mktemp("good")
    torch.manual_seed(0)
    torch.save(make_small().state_dict(), folder / "fresh.pth")
    run = small_run(folder, folder / "fresh.pth", **{"train.epochs": 12, "train.plan": "delayed"})
    train_step(run)
    net = trained_supernet(run)
    assert isinstance(net, GraphSupernet)
    whole = net.extract(net.space.largest)
    torch.save(whole.state_dict(), folder / "good.pth")
    return folder / "good.pth"


def spoilt(net: GraphSupernet) -> GraphSupernet:
    """Return a copy that has forgotten most."""
    result = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in result.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += parameter.std(correction=0) * noise
    return result


def test_shares_lie_on_lines_between_sizes() -> None:
    found = Interpolation(sizes=(0.5, 1.0), shares=(1.0, 0.25))
    assert found.share(1.0) == 0.25
    assert found.share(0.75) == pytest.approx(0.625)
    assert found.share(0.5) == found.share(0.1) == 1.0
    assert Interpolation.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"sizes": [1.0]},
        {"sizes": [], "shares": []},
        {"sizes": [1.0], "shares": [0.5, 1.0]},
        {"sizes": [1.0, 0.5], "shares": [0.5, 1.0]},
        {"sizes": [1.0], "shares": [1.5]},
        {"sizes": [1.0], "shares": ["1"]},
        {"sizes": [1.0], "shares": 1.0},
        {"sizes": [float("nan")], "shares": [1.0]},
    ],
)
def test_what_is_no_interpolation_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="interpolation"):
        Interpolation.from_json(value)


def test_both_ends_are_exact_and_the_middle_is_between(tmp_path: Path, good: Path) -> None:
    given = new_supernet(small_run(tmp_path, good)).eval()
    assert isinstance(given, GraphSupernet)
    trained = spoilt(given)
    trained.sort_channels()
    arch = given.space.largest
    x = torch.randn(4, 3, 12, 12)
    with torch.no_grad():
        assert interpolated(given, trained, 1.0) is trained
        assert torch.equal(interpolated(given, trained, 0.0)(x, arch), given(x, arch))
    middle = interpolated(given, trained, 0.5)
    assert isinstance(middle, GraphSupernet) and torch.equal(middle.order, trained.order)
    for a, b, c in zip(given.parameters(), middle.parameters(), trained.parameters(), strict=True):
        assert torch.allclose(b, (a + c) / 2, rtol=1e-6, atol=1e-7)


def test_the_way_ends_where_it_gets_worse() -> None:
    values = {1.0: (0.9, -1.0), 0.75: (0.9, -0.8), 0.5: (0.8, -0.1), 0.25: (1.0, 0.0)}
    asked = []

    def goodness(share: float) -> tuple[float, float]:
        asked.append(share)
        return values[share]

    assert _best(goodness, [1.0, 0.75, 0.5, 0.25]) == 0.75 and asked == [1.0, 0.75, 0.5]
    nan = float("nan")
    assert _best(lambda share: (0.5, nan if share < 1 else -1.0), [1.0, 0.75]) == 1.0
    assert _best(goodness, [1.0]) == 1.0 and len(asked) == 3  # nothing to choose, nothing asked


def test_spoilt_weights_are_left_and_better_ones_kept(tmp_path: Path, good: Path) -> None:
    run = small_run(tmp_path, good)
    events: list[dict[str, object]] = []
    run = dataclasses.replace(run, tell=events.append)
    given = new_supernet(run)
    assert isinstance(given, GraphSupernet)
    found = find_interpolation(run, spoilt(given))
    assert found is not None and found.sizes[-1] == 1.0 and found.shares[-1] < 1
    assert list(found.shares) == sorted(found.shares, reverse=True)
    facts = [event for event in events if event["event"] != "progress"]
    assert [event["event"] for event in facts] == ["interpolated"]
    # Equal weights are no better: all stay as they were trained.
    assert find_interpolation(run, given) is None
    # And a network that knew nothing has nothing to keep.
    torch.manual_seed(1)
    torch.save(make_small().state_dict(), tmp_path / "fresh.pth")
    bad = small_run(tmp_path / "bad", tmp_path / "fresh.pth")
    assert find_interpolation(bad, given) is None


def test_only_networks_with_weights_of_their_own_have_others(tmp_path: Path, good: Path) -> None:
    run = small_run(tmp_path, good)
    net = spoilt(new_supernet(run))  # type: ignore[arg-type]
    for changed in ({"init": ""}, {"reinit_head": True}):
        train = run.config.train.model_copy(update=changed)
        other = dataclasses.replace(run, config=run.config.model_copy(update={"train": train}))
        assert find_interpolation(other, net) is None


def test_evaluations_take_the_weights_of_their_subnet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    torch.save(make_small().state_dict(), tmp_path / "fresh.pth")
    all_given = Interpolation(sizes=(1.0,), shares=(0.0,))
    monkeypatch.setattr("onceforall.job.steps.train.find_interpolation", lambda run, net: all_given)
    run = small_run(
        tmp_path, tmp_path / "fresh.pth", **{"train.epochs": 12, "train.plan": "delayed"}
    )
    train_step(run)
    facts = json.loads(run.folder.supernet.with_suffix(".json").read_text())
    assert Interpolation.from_json(facts[INTERPOLATION]) == all_given
    largest = run.spec.space.largest
    given, _ = load_saved_supernet(run.folder.network)
    given = given.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(4, 3, 12, 12).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        kept = trained_subnets(run)(largest)
        assert torch.equal(kept(x, largest), given(x, largest))
        assert not torch.equal(trained_supernet(run)(x, largest), given(x, largest))
    evaluate_step(run)
    (line,) = [line for line in run.folder.read_evaluations() if line.arch == largest]
    session = run.session()
    assert line.top1 == session.valid_accuracy(given, largest).top1
    # Of a run, and of its supernet alone.
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps(largest.to_json()))
    source = run.folder.read_settings().request.source
    asked = [
        evaluate_request(EvalRequest(net=str(path), arch=arch, num_calibration=30), source)["top1"]
        for path in (run.folder.path, run.folder.supernet)
    ]
    bare = run.folder.supernet.with_suffix(".json")
    bare.write_text(json.dumps({k: v for k, v in facts.items() if k != INTERPOLATION}))
    trained_top1 = evaluate_request(
        EvalRequest(net=str(run.folder.path), arch=arch, num_calibration=30), source
    )["top1"]
    assert asked[0] == asked[1] < trained_top1
    facts[INTERPOLATION]["shares"] = [2]
    bare.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=r"supernet\.json.*interpolation"):
        trained_subnets(open_run(run.folder.path, tell=lambda event: None))


def test_size_is_counted_at_one_side(tmp_path: Path, good: Path) -> None:
    run = small_run(tmp_path, good)
    space = run.spec.space
    small_side = dataclasses.replace(space.largest, resolution=8)
    assert size_of(run.spec, space.largest) == size_of(run.spec, small_side) == 1.0
    assert 0 < size_of(run.spec, space.smallest) < 1


def test_ranks_share_the_images(tmp_path: Path, good: Path) -> None:
    run = small_run(tmp_path, good)
    parts = [
        sum(len(labels) for _, labels in shared.training_sample(20, batch_size=8).batches(12))
        for rank in range(2)
        for shared in [dataclasses.replace(run, ranks=Ranks(rank=rank, world_size=2))]
    ]
    assert parts == [10, 10]
    run_alone = [labels for _, labels in run.training_sample(500, batch_size=8).batches(12)]
    labels = torch.cat(run_alone)
    assert len(labels) == 30 and labels.tolist() != sorted(labels.tolist())


def test_who_knows_the_images_teaches(tmp_path: Path, good: Path) -> None:
    run = small_run(tmp_path, good)
    assert run.config.train.distillation == "soft_targets"
    (phase,) = run.config.plan(run.spec).phases
    assert phase.teacher == "frozen"
    assert "distillation: soft_targets" in run.folder.settings.read_text()
    said = small_run(tmp_path / "said", good, **{"train.distillation": "none"})
    assert said.config.train.distillation == "none"
    taught = small_run(tmp_path / "taught", good, **{"train.teacher": "other.safetensors"})
    assert taught.config.train.distillation == "soft_targets"
    loaded = small_run(tmp_path / "loaded", good, **{"train.epochs": 0})
    assert loaded.config.train.distillation is None


def test_a_batch_of_one_has_no_statistics(tmp_path: Path, good: Path) -> None:
    run = small_run(tmp_path, good)
    given = new_supernet(run)
    net = given.extract(given.space.smallest)
    whole = [(torch.randn(4, 3, 12, 12), torch.tensor([0, 1, 2, 0]))]
    more = [*whole, (torch.randn(1, 3, 12, 12), torch.tensor([0]))]
    assert _goodness(run, net, iter(more)) == _goodness(run, net, iter(whole))
    assert _goodness(run, net, iter(more[1:])) == (0.0, 0.0)


def test_one_process_decides_who_teaches_on_all_images(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run(tmp_path, good)
    train = run.config.train.model_copy(update={"distillation": None})
    asked = []

    def counted(net: object, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Accuracy:
        asked.append(sum(len(labels) for _, labels in batches))
        return Accuracy(top1=0.94, top5=1.0, loss=0.1, images=asked[-1])

    monkeypatch.setattr("onceforall.job.teacher.evaluate", counted)
    config = run.config.model_copy(update={"train": train})
    several = dataclasses.replace(run, config=config, ranks=Ranks(rank=0, world_size=8))
    assert decide_teacher(several).train.distillation == "none" and asked == [30]


def test_what_the_run_began_with_has_to_be_there(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = Interpolation(sizes=(1.0,), shares=(0.5,))
    monkeypatch.setattr("onceforall.job.steps.train.find_interpolation", lambda run, net: some)
    run = small_run(tmp_path, good, **{"train.epochs": 0.1})
    # Killed between the two files of the network that it began with.
    run.folder.network.with_suffix(".json").unlink()
    train_step(run)
    assert run.folder.has_network()
    trained = trained_supernet(run)
    monkeypatch.chdir(run.folder.checkpoints)
    assert subnets_beside(Path("supernet.safetensors"), trained)(trained.space.largest)
    beside = run.folder.network.with_suffix(".json")
    facts = json.loads(beside.read_text())
    beside.write_text(json.dumps(facts).replace('"num_classes": 3', '"num_classes": 4'))
    with pytest.raises(CheckpointError, match=r"network\.(safetensors|json)"):
        trained_subnets(run)
    run.folder.network.unlink()
    with pytest.raises(CheckpointError, match=r"network\.safetensors, which is not there"):
        trained_subnets(run)


def test_more_epochs_learn_from_what_was_kept(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_given = Interpolation(sizes=(1.0,), shares=(0.0,))
    monkeypatch.setattr("onceforall.job.steps.train.find_interpolation", lambda run, net: all_given)
    run = small_run(tmp_path, good, **{"train.epochs": 1, "train.learning_rate": 1.0})
    train_step(run)
    teachers = []
    real = more_epochs.train

    def seen(net: ElasticNet, *rest: Any, teacher: ElasticNet, **options: Any) -> None:
        teachers.append(teacher)
        real(net, *rest, teacher=teacher, **options)

    monkeypatch.setattr(more_epochs, "train", seen)
    settings_more = run.config.train.model_copy(update={"more_epochs": (0.2,)})
    config = run.config.model_copy(update={"train": settings_more})
    train_step(dataclasses.replace(run, config=config))
    (teacher,) = teachers
    given = dict(new_supernet(run).named_parameters())
    for name, parameter in teacher.named_parameters():
        assert torch.equal(parameter, given[name]) and not parameter.requires_grad
    facts = json.loads(run.folder.supernet.with_suffix(".json").read_text())
    assert facts["more_epochs"] == [0.2] and INTERPOLATION in facts


def test_two_processes_find_it_together(tmp_path: Path, good: Path) -> None:
    images, out = write_images(tmp_path / "images.npz"), tmp_path / "run"
    changed = {"train.ranks": 2, "train.epochs": 3, "train.learning_rate": 1.0}
    done = ofa.run(images, out=out, net=NET, weights=good, settings=settings() | changed)
    assert done.cards
    # Each has counted its part of the images; what they find depends on the processor's rounding.
    assert len(done.run.folder.read_events("interpolated")) <= 1


def test_only_narrow_networks_keep_more_of_their_widths() -> None:
    from torchvision.models import mobilenet_v2, resnet18

    x = torch.zeros(1, 3, 64, 64)
    assert is_narrow(ofa.elasticize(mobilenet_v2(), x).spec)
    assert not is_narrow(ofa.elasticize(resnet18(), x).spec)


def test_the_terminal_says_where_subnets_are(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        screen({"event": "interpolated", "sizes": [0.65, 0.7, 1.0], "shares": [1.0, 0.75, 0.25]})
    assert capsys.readouterr().err == (
        "  weights, from those given (0 %) to the trained ones (100 %): "
        "25 % for the largest subnet, 75 % at 70 % of its MACs, 100 % at 65 % of its MACs\n"
    )
