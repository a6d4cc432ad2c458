"""A verb uses every option that it takes, and checks all of them before it works."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import typer

from onceforall.cli.app import app
from onceforall.errors import MissingExtraError
from onceforall.training.ranks import Ranks
from tests.cli.command import ofa
from tests.cli.observed import SEEN, Observed, observe
from tests.cli.option_case import Case, Command
from tests.cli.option_cases import CASES, IDLE, RUN
from tests.cli.places import FakeCifar

pytest.importorskip("onnxruntime")
# Of a command that fails in one of its two ways, the status is what differs.
_SHOWN = {name: case for name, case in CASES.items() if case.seen not in ("request", "device")}
_OF_TRAIN = {name: case for name, case in CASES.items() if case.seen == "request"}
_WRONG = {name: case for name, case in CASES.items() if case.wrong}
_HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None


def parameters(command: Any, verb: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every option and argument of the command tree: ``search --limit``, ``eval DATA``."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner, f"{verb} {name}".strip())
    for parameter in command.params:
        is_option = parameter.opts[0].startswith("-")
        yield f"{verb} {parameter.opts[0] if is_option else parameter.name.upper()}", parameter


TREE = dict(parameters(typer.main.get_command(app)))


@pytest.fixture(scope="session")
def given(
    places: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Observed]:
    """Give a command, once for every time that it is asked for."""
    known: dict[tuple[Command, int], Observed] = {}

    def give(command: Command, time: int = 0) -> Observed:
        if (command, time) not in known:
            known[command, time] = observe(command, places, tmp_path_factory.mktemp("given"))
        return known[command, time]

    return give


def test_every_option_of_every_verb_has_a_case() -> None:
    assert set(CASES) == set(TREE)


@pytest.mark.parametrize("name", TREE)
def test_what_takes_a_value_refuses_some(name: str) -> None:
    assert bool(CASES[name].wrong) != bool(getattr(TREE[name], "is_flag", False))


@pytest.mark.parametrize("name", _SHOWN)
def test_an_option_changes_what_comes_of_a_command(
    name: str, given: Callable[..., Observed]
) -> None:
    case, see = _SHOWN[name], SEEN[_SHOWN[name].seen]
    base, other = given(case.base), given(case.other)
    if name == "run --tensorboard" and not _HAS_TENSORBOARD:
        assert other.answer.status == 2 and "pip install" in other.answer.err
        return
    assert other.answer.status == 0, other.answer.err
    assert base.answer.status == (2 if case.seen == "status" else 0), base.answer.err
    assert see(base) != see(other)
    # The difference is the option's: the same command twice makes none.
    assert see(base) == see(given(case.base, time=1))


@pytest.mark.parametrize("name", _OF_TRAIN)
def test_training_alone_asks_for_what_a_run_asks_for(name: str, places: dict[str, str]) -> None:
    case, of_run = _OF_TRAIN[name], CASES[name.replace("train", "run", 1)]
    asked = request_of(case.other, places)
    assert asked == request_of(of_run.other, places)
    assert asked != request_of(case.base, places)


def request_of(command: Command, places: dict[str, str]) -> tuple[Any, ...]:
    """Return what a command asks of the job, which is not done."""
    asked: list[Any] = []

    class Asked(Exception):
        pass

    def run_all(request: Any, out: Path, **more: Any) -> None:
        asked.extend([request, out])
        raise Asked

    @contextlib.contextmanager
    def tensorboard_writer(folder: Path) -> Iterator[Callable[[Any], None]]:
        asked.append(folder)
        yield lambda event: None

    with (
        mock.patch("onceforall.job.pipeline.run_all", run_all),
        mock.patch("onceforall.job.tensorboard.tensorboard_writer", tensorboard_writer),
        contextlib.suppress(Asked),
    ):
        ofa(*(word.format_map(places | {"out": "out"}) for word in command))
    assert asked
    return tuple(asked)


def test_a_device_is_the_named_one_or_a_gpu(places: dict[str, str]) -> None:
    case, used = CASES["eval --device"], []

    def evaluate_request(*args: Any, device: torch.device, **kwargs: Any) -> dict[str, Any]:
        used.append(device)
        return {}

    with (
        mock.patch("onceforall.job.tasks.evaluate_any.evaluate_request", evaluate_request),
        mock.patch("onceforall.job.machine.default_device", lambda ranks: torch.device("cuda", 3)),
    ):
        for command in (case.base, case.other):
            assert ofa(*(word.format_map(places) for word in command)).status == 0
    assert used == [torch.device("cuda", 3), torch.device("cpu")]


@pytest.mark.parametrize("name", _WRONG)
def test_a_wrong_value_is_one_line_before_any_work(
    name: str, places: dict[str, str], tmp_path: Path
) -> None:
    case: Case = _WRONG[name]
    refuse(case.wrong, case.says, places, tmp_path)


@pytest.mark.parametrize("name", IDLE)
def test_an_option_that_would_be_ignored_is_refused(
    name: str, places: dict[str, str], tmp_path: Path
) -> None:
    command, says = IDLE[name]
    refuse(command, says, places, tmp_path)


def test_a_package_that_is_missing_is_said_before_training(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str, extra: str) -> None:
        raise MissingExtraError(package, extra)

    monkeypatch.setattr("onceforall.measure.latency.targets.import_extra", missing)
    names = places | {"out": str(tmp_path / "out")}
    answer = ofa(*(word.format_map(names) for word in RUN))
    assert answer.status == 2
    assert answer.err == "ofa: onnxruntime is not installed: run pip install 'onceforall[onnx]'\n"
    assert not (tmp_path / "out" / "checkpoints").exists()


def refuse(command: Command, says: str, places: dict[str, str], folder: Path) -> None:
    """Give a command that must be refused with a line; nothing is computed or written."""
    before = stamps(Path(places["world"]))
    names = places | {"out": str(folder / "out"), "copy": places["run"], "copy_b": places["run_b"]}
    with no_work(), mock.patch("torchvision.datasets.CIFAR10", FakeCifar):
        answer = ofa(*(word.format_map(names) for word in command))
    assert answer.status == 2, answer.err
    assert answer.err.startswith("ofa: ") and answer.err.count("\n") == 1, answer.err
    assert says in answer.err
    assert answer.out == ""
    assert not list(folder.iterdir())
    assert stamps(Path(places["world"])) == before


@contextlib.contextmanager
def no_work() -> Iterator[None]:
    """Fail where a network runs, a device is measured or a space is searched."""

    def work(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("work was done")

    with contextlib.ExitStack() as stack:
        for name in (
            "torch.nn.Module.__call__",
            "onceforall.measure.latency.journal.measure_latency",
            "onceforall.job.steps.confirm.measure_latency",
            "onceforall.job.steps.prove.measure_latency",
            "onceforall.measure.latency.repeated.measure_latency",
            "onceforall.job.steps.search.nsga2",
            "onceforall.job.tasks.published_search.evolve",
        ):
            stack.enter_context(mock.patch(name, work))
        yield


def stamps(folder: Path) -> dict[Path, int]:
    """Return when each file was written; a lock that comes and goes touches its folder alone."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_ranks_share_no_gpu_by_name_and_no_standard_input(
    places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from onceforall.errors import ConfigError
    from onceforall.job.machine import named_device
    from onceforall.job.tasks.evaluate_any import EvalRequest, evaluate_request

    two = Ranks(rank=1, world_size=2, local_rank=1)
    with pytest.raises(ConfigError, match="cuda:0 is one GPU for several processes"):
        named_device("cuda:0", two)
    monkeypatch.setattr("onceforall.training.ranks.wait_for_all", lambda ranks: None)
    request = EvalRequest(net=places["run"], arch=Path("-"))
    with pytest.raises(ConfigError, match="cannot share standard input"):
        evaluate_request(request, places["images"], ranks=two)
