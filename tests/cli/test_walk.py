"""The walk of a user: from an answer to the next step, each step a command that was printed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import onceforall
from onceforall.cli.app import app
from onceforall.measure.onnx.model import ort_session
from onceforall.zoo import find_entry, load_config_net, load_static
from tests.cli.command import ofa


def cards(run: str | Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in Path(run).glob("models/*/card.json")]


# -- which one should I take? ---------------------------------------------------------------------


def test_choose_names_a_model_that_can_be_used_as_it_says(places: dict[str, str]) -> None:
    slowest = max(float(str(card["latency_ms"])) for card in cards(places["run"]))
    answer = ofa("choose", places["run"], "--limit", f"latency_ms={slowest}")
    assert answer.status == 0, answer.err
    (call,) = re.findall(r"ofa\.(load_model)\('(.*)'\)", answer.out)
    card = getattr(onceforall, call[0])(call[1]).card
    best = max(float(str(each["valid_top1"])) for each in cards(places["run"]))
    assert card.valid_top1 == best and f"latency_ms={slowest:g}: {card.name}, " in answer.out
    assert "no shipped model is better" in answer.out

    # Models that no search found were measured on the validation images too.
    assert all(each["valid_top1"] is not None for each in cards(places["run"]))
    assert {each["name"] for each in cards(places["run"])} >= {"second"}


def test_choose_says_what_a_looser_limit_would_gain(places: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(places["run"], tmp_path / "run")
    for path in (tmp_path / "run").glob("models/*/card.json"):
        card = json.loads(path.read_text())
        card |= {"valid_top1": 0.9, "top1": 0.9} if card["name"] == "second" else {
            "valid_top1": 0.5, "top1": 0.4, "latency_ms": 0.02
        }  # fmt: skip
        card |= {"latency_ms": 0.045} if card["name"] == "second" else {}
        path.write_text(json.dumps(card))
    answer = ofa("choose", tmp_path / "run", "--limit", "latency_ms=0.03,0.05", "--json")
    tight, loose = json.loads(answer.out)
    assert tight["model"]["valid_top1"] == 0.5 and loose["model"]["name"] == "second"
    (gain,) = tight["gains"]
    assert gain == {
        "name": "second", "limits": {"latency_ms": 0.045}, "points": 50.0, "beyond_noise": True
    }  # fmt: skip
    said = ofa("choose", tmp_path / "run", "--limit", "latency_ms=0.03").out
    assert (
        "with latency_ms=0.045: second, 90" in said
        and "+50.0 points of test top-1, beyond noise" in said
    )


# -- compare --------------------------------------------------------------------------------------


def test_two_runs_are_compared_in_the_terminal_and_on_a_page(
    places: dict[str, str], tmp_path: Path
) -> None:
    runs = places["run"], places["run_b"]
    answer = ofa("compare", *runs)
    assert answer.status == 0, answer.err
    assert re.search(r"train\.epochs +3\.0 +1\.0", answer.out)
    names = [f"{Path(run).name}/{card['name']}" for run in runs for card in cards(run)]
    for name in names:
        assert name in answer.out
    found = json.loads(ofa("compare", *runs, "--json").out)
    assert found["settings"]["seed"] == {"run": "0", "run_b": "1"}

    page = tmp_path / "both.html"
    assert ofa("report", *runs, "--out", page).out == f"{page}\n"
    assert all(name in page.read_text() for name in names)
    assert "Settings that differ" in page.read_text()


# -- search, then ship ----------------------------------------------------------------------------


def test_a_search_ships_what_it_finds_and_then_names_it(
    places: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(places["run"], run)
    for folder in (run / "models").iterdir():
        shutil.rmtree(folder)
    said = ofa("search", run, "--limit", f"macs={places['macs']}")
    (command,) = re.findall(r"next: +ofa (.*)", said.out)
    assert not list((run / "models").iterdir())

    shipped = ofa(*shlex.split(command), "--json")
    assert shipped.status == 0, shipped.err
    found = json.loads(shipped.out)
    assert found["new"] and found["limits"] == {"macs": float(places["macs"])}
    card = found["model"]
    assert card["macs"] <= float(places["macs"]) and card["valid_top1"] is not None
    assert [each["name"] for each in cards(run)] == [card["name"]]
    assert card["name"] in (run / "report.html").read_text()

    # What it says next proves it, and the same command does not ship another one like it.
    again = ofa(*shlex.split(command))
    assert f"{card['name']} is shipped already; nothing found is better beyond noise" in again.out
    (check,) = re.findall(r"next: +ofa (.*)", again.out)
    assert "verified" in ofa(*shlex.split(check)).out
    assert len(cards(run)) == 1
    chosen = json.loads(ofa("choose", run, "--limit", f"macs={places['macs']}", "--json").out)
    assert chosen["model"]["name"] == card["name"]


def test_a_search_names_the_model_that_is_as_good(places: dict[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(places["run"], run)
    for path in run.glob("models/*/card.json"):
        card = json.loads(path.read_text())
        card["valid_top1"] = 1.0 if card["name"] == "second" else 0.5
        path.write_text(json.dumps(card))
    before = len(cards(run))
    found = json.loads(ofa("search", run, "--ship", "--json").out)
    assert not found["new"] and found["model"]["name"] == "second"
    assert len(cards(run)) == before


def test_a_published_search_ships_too(places: dict[str, str], tmp_path: Path) -> None:
    model = tmp_path / "model"
    said = ofa(
        *("search", "--net", "ofa_mbv3_d234_e346_k357_w1.0", "--predictor", places["predictor"]),
        *("--limit", "macs=1.6e8"),
    )
    (command,) = re.findall(r"next: +ofa (.*)", said.out)
    for name, place in (("official", "ofa_weights"), ("DATA", "thousand")):
        command = command.replace(f" {name} ", f" {places[place]} ")
    shipped = ofa(*shlex.split(command.replace(" MODEL ", f" {model} ")), "--json")
    assert shipped.status == 0, shipped.err
    card = json.loads(shipped.out)["model"]
    assert card["macs"] <= 1.6e8 and len(card["classes"]) == 1000 and card["data"] == "thousand"
    assert ofa("verify", model).status == 0
    assert len(onceforall.load_model(model).classify(next(Path(places["thousand"]).rglob("*.png"))))


def test_an_arch_of_a_published_supernet_ships(places: dict[str, str], tmp_path: Path) -> None:
    model = tmp_path / "model"
    made = ofa(
        *("specialize", "--net", "ofa_mbv3_d234_e346_k357_w1.0", "--arch", places["ofa_arch"]),
        *("--weights", places["ofa_weights"], "--data", places["thousand"], "--out", model),
        "--json",
    )
    assert made.status == 0, made.err
    card = json.loads(made.out)
    assert card["arch"] == json.loads(Path(places["ofa_arch"]).read_text())
    assert ofa("verify", model).status == 0


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
@pytest.mark.parametrize("form", ["onnx", "pt2", "torchscript", "published", "config"])
def test_a_published_network_takes_every_form(
    form: str, places: dict[str, str], tmp_path: Path
) -> None:
    weights, out = places["zoo_weights"], tmp_path / "net"
    done = ofa("export", "proxyless_cpu", "--weights", weights, "--format", form, "--out", out)
    assert done.status == 0, done.err
    found = load_static("proxyless_cpu", weights)
    images = torch.randn(2, 3, found.resolution, found.resolution)
    with torch.no_grad():
        expected = found.model(images)
    if form == "config":  # with the weights it is the same network, and makes its input alike
        again = load_config_net(json.loads(out.read_text()), weights)
        assert again.preprocessing == found.preprocessing
        logits = again.model(images).detach()
    elif form == "published":
        logits = load_static("proxyless_cpu", out).model(images).detach()
    elif form == "onnx":
        (values,) = ort_session(out.read_bytes()).run(None, {"images": images.numpy()})
        logits = torch.from_numpy(values)
    elif form == "pt2":
        logits = torch.export.load(out).module()(images)
    else:
        logits = torch.jit.load(out)(images)  # type: ignore[no-untyped-call]
    atol = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=atol)


# -- time one model -------------------------------------------------------------------------------


def test_a_model_is_timed_with_two_threads_and_so_is_its_onnx_file(
    places: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.onnx"
    shutil.copy(Path(places["model"]) / "model.onnx", file)
    measure = ("latency", "measure", places["model"], file, "--threads", "2", "--rounds", "3")
    answer = ofa(*measure)
    assert answer.status == 0, answer.err
    assert re.search(
        r"mine\.onnx: \S+ \+- \S+ ms \(3 rounds, \S+ to \S+; ort-cpu, 2 threads, ", answer.out
    )
    folder, alone = json.loads(ofa(*measure, "--json").out)
    assert (folder["threads"], folder["target"], alone["model"]) == (2, "ort-cpu", "mine.onnx")
    for found in (folder, alone):
        span = max(found["rounds_ms"]) - min(found["rounds_ms"])
        assert found["spread_ms"] >= span / 2 and found["latency_ms"] in found["rounds_ms"]
    assert folder["resolution"] == alone["resolution"]

    assert (
        "only ONNX targets can run it"
        in ofa("latency", "measure", file, "--target", "torch-cpu").err
    )
    file.write_bytes(b"nothing")
    assert "is no ONNX file that runs" in ofa("latency", "measure", file).err


# -- the small ones -------------------------------------------------------------------------------


def test_a_folder_of_foreign_json_lists_its_tables_alone(
    places: dict[str, str], tmp_path: Path
) -> None:
    shutil.copy(places["table"], tmp_path / "mine.json")
    for name, text in (("a.json", "[]"), ("b.json", "nothing"), ("c.json", '{"name": "package"}')):
        (tmp_path / name).write_text(text)
    listed = ofa("latency", "list", tmp_path)
    assert listed.status == 0 and listed.out.count("\n") == 1 and "mine.json: ort-cpu" in listed.out
    (tmp_path / "mine.json").write_text('{"table": "damaged"}')
    damaged = ofa("latency", "list", tmp_path)
    assert damaged.status == 2 and "mine.json" in damaged.err


def test_an_alias_is_verified_as_it_is_shown() -> None:
    answers = [
        ofa("zoo", "verify", name, "--json").out
        for name in ("ofa-note10-22", "note10_lat@22ms_top1@76.6_finetune@25")
    ]
    assert answers[0] == answers[1] != "[]\n"


def test_fine_tuning_says_what_it_gained(places: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(places["run"], tmp_path / "run")
    answer = ofa("finetune", tmp_path / "run", "second", "--epochs", "1")
    assert answer.status == 0, answer.err
    before, after = (
        next(line for line in answer.out.splitlines() if line.startswith(f"{name} "))
        for name in ("second", "second-finetune1")
    )
    assert before.count("%") == after.count("%") == 1
    assert re.search(r"[+-]\d+\.\d points of test top-1, (within|beyond) noise", answer.out)


def test_limits_are_named_where_they_are_asked_for() -> None:
    for verb in ("run", "search", "choose"):
        shown = " ".join(ofa(verb, "--help").out.split())
        assert all(name in shown for name in ("latency_ms", "macs", "params", "peak_activation"))


def test_what_examples_name_exists() -> None:
    """Verbs and options are there, models are those of the README's run, nets are published."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    examples = 0
    for path, command in commands(typer.main.get_command(app)):
        for example in re.findall(r"Example:\s+(ofa .*?)(?:\n\n|$)", command.help or "", re.DOTALL):
            examples += 1
            words = shlex.split(" ".join(example.split()))[1:]
            assert words[: len(path)] == path, example
            known = {option for each in command.params for option in each.opts}
            assert {word for word in words if word.startswith("--")} <= known, example
            for name in re.findall(r"net\d\d-[\w.]+-\d+px", example):
                assert name in readme, example
            for name in re.findall(r"\bofa[-_][a-z]\S+", example):
                assert find_entry(name), example
    assert examples > 20


def commands(command: Any, path: Sequence[str] = ()) -> Iterator[tuple[list[str], Any]]:
    below = getattr(command, "commands", None)
    if not below:
        yield list(path), command
    for name, child in (below or {}).items():
        yield from commands(child, (*path, name))
