"""Every parser, and every file of a run: what is read, and what reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from onceforall.arch import Arch
from onceforall.arch_files import read_arch
from onceforall.artifacts import (
    Card,
    ConfirmedFile,
    Evaluation,
    FailedFile,
    FrontFile,
    Progress,
    Rejected,
    RunSettings,
)
from onceforall.blueprint import blueprint_from_json
from onceforall.cli.options import parse_limits, parse_numbers
from onceforall.data import open_dataset
from onceforall.data.images.decode import decode_rgb
from onceforall.data.images.pixels import read_centre
from onceforall.deploy.model_folder import onnx_relative_error, verify_folder
from onceforall.encoding import Encoding
from onceforall.errors import ConfigError
from onceforall.graph import graph_from_json, graph_to_json
from onceforall.job.clock import parse_time
from onceforall.job.config import resolve
from onceforall.job.folder import RunFolder
from onceforall.job.nets import net_flags
from onceforall.job.preflight import check_buildable
from onceforall.job.recipes import recipe_for
from onceforall.job.status import read_status, status_lines
from onceforall.job.tasks.latency_models import named_tables, read_table
from onceforall.job.transfer import read_start
from onceforall.measure.graph_costs import graph_macs, graph_params, graph_peak_bytes
from onceforall.measure.latency.journal import Journal
from onceforall.measure.latency.published import read_published_latency
from onceforall.measure.latency.targets import OrtCpu
from onceforall.predictors.accuracy import AccuracyPredictor
from onceforall.predictors.published import read_published_predictor
from onceforall.report import write_report
from onceforall.search import Problem, nsga2
from onceforall.search.journal import recorded
from onceforall.supernets.graphs.elasticize import elasticize
from onceforall.supernets.graphs.network import check_graph
from onceforall.supernets.graphs.spec import GraphSpec
from onceforall.supernets.published.checkpoint import read_weights
from onceforall.supernets.published.config_read import blueprint_from_config
from onceforall.supernets.weights import (
    load_plain,
    load_saved_supernet,
    spec_from_json,
    spec_to_json,
)
from onceforall.terminal import printable
from onceforall.training.budget import Pace, Pacer
from onceforall.training.checkpoint import load_newest
from onceforall.zoo.load import load_config_net
from tests.hostile.damage import HOSTILE, changed_bytes, changed_json, changed_lines, changed_values
from tests.training.tiny import SPEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Something that reads.

    Attributes:
        cases: What it is given.
        act: Reads one case.
        weight: Cases of it for one of the others; slow ones have fewer.
    """

    cases: st.SearchStrategy[Any]
    act: Callable[[Any], object]
    weight: float = 1.0


def make_subjects(world: Path, scratch: Path) -> dict[str, Subject]:
    """Return every subject by name; cases are written into ``scratch``."""
    run, (model,) = world / "run", (world / "run" / "models").iterdir()
    card = json.loads((model / "card.json").read_bytes())
    subjects = _values(world, card) | _texts(scratch)
    subjects |= _files(world, run, model, scratch)
    subjects |= _of_models(model, scratch) | _of_runs(run, scratch)
    return subjects | _of_images(world, scratch)


def _values(world: Path, card: dict[str, Any]) -> dict[str, Subject]:
    """Return parsers of JSON values."""
    space = SPEC.space
    spec = json.loads((world / "run/checkpoints/supernet.json").read_bytes())["spec"]
    net = json.loads((world / "net.json").read_bytes())
    published = {"ks": [3, 5, 3, 5], "e": 2, "d": [1, 2], "image_size": 8, "wid": None}
    pairs: dict[str, tuple[Any, Callable[[Any], object]]] = {
        "arch": (card["arch"], Arch.from_json),
        "published arch": (published, space.from_published),
        "blueprint": (card["blueprint"], blueprint_from_json),
        "stage table": (spec, spec_from_json),
        "traced network": (
            graph_to_json(_traced().blueprint(_traced().space.smallest)),
            _run_graph,
        ),
        "elastic traced network": (spec_to_json(_traced()), spec_from_json),
        "published configuration": (net, blueprint_from_config),
    }
    return {
        name: Subject(cases=changed_values(value), act=act) for name, (value, act) in pairs.items()
    }


@lru_cache(maxsize=1)
def _traced() -> GraphSpec:
    """Return a small network of somebody else's, made elastic."""
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    return elasticize(body, torch.zeros(1, 3, 8, 8)).spec


def _run_graph(value: Any) -> object:
    graph = check_graph(graph_from_json(value))
    return graph_macs(graph), graph_params(graph), graph_peak_bytes(graph)


def _texts(scratch: Path) -> dict[str, Subject]:
    """Return parsers of what is typed: settings, options, names."""
    recipe = recipe_for("digits", image_side=8, num_train=150, num_classes=3)
    keys = sorted(
        f"{section}.{key}"
        for section, values in recipe.model_dump().items()
        if isinstance(values, dict)
        for key in values
    )
    parts = ["[]", "[0]", "[1]", "[.nan]", "[.inf, 1]", "[1001]", "1e11", "1_0", "10**21", "~"]
    parts += ["1", "2", "4", "0.5", "[8]", "[1, 2]", "[0.5, 1.0]", "[3, 5]", "none", "true"]
    parts += ["[8, 8]", "[16, 8]", "[-1]", "foo", "&x [*x]", "{a: 1}", "[" * 200, "100000000000"]
    words = st.sampled_from([*map(repr, HOSTILE), *parts]) | st.text(max_size=12)
    flags = st.tuples(st.sampled_from(keys), words).map("=".join)
    config = json.dumps(recipe.model_dump(mode="json")).encode()

    def settings(given: list[str]) -> None:
        config = resolve(recipe, flags=given)
        check_buildable(config, lambda: config.spec(3))

    def file(text: bytes) -> None:
        try:
            config = resolve(recipe, file=text.decode())
            check_buildable(config, lambda: config.spec(3))
        except UnicodeDecodeError as error:
            raise ConfigError("no text") from error  # as the command line does

    def option(text: str) -> None:
        for parse in (parse_time, lambda t: parse_limits([t]), lambda t: named_tables([t])):
            try:
                parse(text)
            except ConfigError:
                continue
        parse_numbers("--mean", text)

    def shown(text: str) -> None:
        line = printable(text)
        assert line.isprintable() or all(c.isprintable() or ord(c) > 127 for c in line)
        line.encode()

    return {
        "--set": Subject(cases=st.lists(flags, min_size=1, max_size=3), act=settings),
        "--config": Subject(cases=changed_json(config), act=file, weight=0.5),
        "options": Subject(cases=st.text(max_size=30) | words, act=option),
        "names on the terminal": Subject(cases=st.text(max_size=30), act=shown),
    }


def _files(world: Path, run: Path, model: Path, scratch: Path) -> dict[str, Subject]:
    """Return readers of one file each."""
    table = next((run / "latency").glob("*.json"))
    yaml_table = b"Conv-input:8x8x3-output:8x8x8: {mean: 1.5, std: 0.1, count: 3}\n" * 1
    budget = b'{"step": 4, "epochs": [1.5]}\n{"step": 8, "epochs": [1.0]}\n'
    header = {"seed": 0}
    recorded_lines = json.dumps(header).encode() + b'\n{"rows": ["00ff"], "values": [0.5]}\n'
    problem = Problem(encoding=Encoding(SPEC.space), objectives={"a": _first, "b": _last})
    journal = scratch / "made.jsonl"
    nsga2(problem, seed=0, population_size=8, generations=2, journal=journal)
    pace = Pace(seconds_left=lambda _: 10.0, step_seconds=(0.1,), every_s=1.0)

    def search(path: Path) -> None:
        nsga2(problem, seed=0, population_size=8, generations=3, journal=path)

    def pacer(path: Path) -> None:
        Pacer(pace=pace, journal=path).decide(4, 0, [3], lambda phase, steps: 1.0)

    read: list[tuple[str, str, bytes, Any, Callable[[Path], object]]] = [
        ("arch file", "a.json", (model / "arch.json").read_bytes(), changed_json,
         lambda path: read_arch(path, SPEC.space)),
        ("card.json", "c.json", (model / "card.json").read_bytes(), changed_json, Card.read),
        ("front.json", "f.json", (run / "search/front.json").read_bytes(), changed_json,
         FrontFile.read),
        ("confirmed.json", "f.json", (run / "search/confirmed.json").read_bytes(), changed_json,
         ConfirmedFile.read),
        ("failed.json", "f.json", (run / "search/failed.json").read_bytes(), changed_json,
         FailedFile.read),
        ("rejected.json", "f.json", (run / "search/rejected.json").read_bytes(), changed_json,
         Rejected.read),
        ("progress.json", "p.json", (run / "progress.json").read_bytes(), changed_json,
         Progress.read),
        ("run.yaml", "run.yaml", (run / "run.yaml").read_bytes(), changed_bytes, RunSettings.read),
        ("evaluations.jsonl", "e.jsonl", (run / "evaluations.jsonl").read_bytes(), changed_lines,
         Evaluation.read_lines),
        ("latency model", "l.json", table.read_bytes(), changed_json, read_table),
        ("latency journal", "l.jsonl", table.with_suffix(".jsonl").read_bytes(), changed_lines,
         lambda path: Journal.open(path, target=OrtCpu(), batch_size=1, repeats=10)),
        ("published latency table", "224_lookup_table.yaml", yaml_table, changed_bytes,
         read_published_latency),
        ("front's journal", "s.jsonl", journal.read_bytes(), changed_lines, search),
        ("evaluations of a search", "r.jsonl", recorded_lines, changed_lines,
         lambda path: recorded(_first, journal=path, header=header)),
        ("journal of lengths", "b.jsonl", budget, changed_lines, pacer),
        ("predictor", "predictor.safetensors", (run / "predictor.safetensors").read_bytes(),
         changed_bytes, lambda path: _predicts(path)),
        ("published predictor", "p.pth", (world / "predictor.pth").read_bytes(), changed_bytes,
         read_published_predictor),
        ("published weights", "w.pth", (world / "weights.pth").read_bytes(), changed_bytes,
         read_weights),
        ("network of --net", "net.yaml", b"type: MBConvSpec\nnum_classes: 3\n", changed_bytes,
         net_flags),
        ("network of --net, JSON", "net.json",
         (run / "checkpoints/supernet.json").read_bytes(), changed_json, net_flags),
        ("configuration file", "n.json", (world / "net.json").read_bytes(), changed_json,
         load_config_net),
        ("images.npz", "i.npz", (world / "images.npz").read_bytes(), changed_bytes,
         lambda path: open_dataset(str(path))),
    ]  # fmt: skip
    return {
        name: Subject(cases=change(data), act=_writing(scratch / file, act))
        for name, file, data, change, act in read
    }


def _predicts(path: Path) -> None:
    predictor = AccuracyPredictor.load(path)
    predictor.predict(np.zeros((2, len(predictor.feature_mean))))


def _of_models(model: Path, scratch: Path) -> dict[str, Subject]:
    """Return the readers of a model folder, one file of it changed."""
    plan = Card.read(model / "card.json").blueprint
    onnx, images = (model / "model.onnx").read_bytes(), torch.zeros(1, 3, 8, 8)
    logits = torch.zeros(1, 3)
    weights = (model / "model.safetensors").read_bytes()
    copy = scratch / "model"
    shutil.copytree(model, copy)
    return {
        "model.onnx": Subject(
            cases=changed_bytes(onnx),
            act=_writing(
                scratch / "m.onnx",
                lambda path: onnx_relative_error(path.read_bytes(), images, logits, name=path.name),
            ),
        ),
        "model.safetensors": Subject(
            cases=changed_bytes(weights),
            act=_writing(scratch / "m.safetensors", lambda path: load_plain(plan, path)),
        ),
        "a model that is verified": Subject(
            cases=changed_json((model / "card.json").read_bytes()),
            act=_writing(copy / "card.json", lambda path: verify_folder(copy)),
            weight=0.3,
        ),
    }


def _of_runs(run: Path, scratch: Path) -> dict[str, Subject]:
    """Return the readers of a run's folder, one file of it changed."""
    copy = scratch / "run"
    shutil.copytree(run, copy)
    folder = RunFolder(path=copy)
    good = {
        path.relative_to(run): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.suffix in (".json", ".jsonl", ".yaml")
    }

    @st.composite
    def one_changed(draw: st.DrawFn) -> tuple[Path, bytes]:
        name = draw(st.sampled_from(sorted(good)))
        kinds = {".json": changed_json, ".jsonl": changed_lines, ".yaml": changed_bytes}
        return name, draw(kinds[name.suffix](good[name]))

    def with_change(case: tuple[Path, bytes], read: Callable[[], object]) -> None:
        name, data = case
        (copy / name).write_bytes(data)
        try:
            read()
        finally:
            (copy / name).write_bytes(good[name])

    def status() -> None:
        status_lines(read_status(folder))

    def everything() -> None:
        for read in (folder.read_events, folder.read_evaluations, folder.read_cards):
            read()
        load_saved_supernet(folder.supernet)
        read_start(folder.supernet, num_classes=3)

    def checkpoint(data: bytes) -> None:
        (path,) = [p for p in sorted((copy / "checkpoints").glob("step-*.pt"))][-1:]
        before = path.read_bytes()
        path.write_bytes(data)
        try:
            load_newest(copy / "checkpoints", device="cpu", on_damaged=lambda path: None)
        finally:
            path.write_bytes(before)

    newest = sorted((run / "checkpoints").glob("step-*.pt"))[-1].read_bytes()
    acts = {
        "report of a damaged run": (lambda: write_report(copy), 0.3),
        "status of a damaged run": (status, 0.5),
        "what steps read of a damaged run": (everything, 0.3),
    }
    subjects = {
        name: Subject(
            cases=one_changed(), act=lambda case, read=read: with_change(case, read), weight=weight
        )
        for name, (read, weight) in acts.items()
    }
    return {**subjects, "checkpoints": Subject(cases=changed_bytes(newest), act=checkpoint)}


def _of_images(world: Path, scratch: Path) -> dict[str, Subject]:
    """Return readers of pictures and of what lies beside them."""
    root = scratch / "pictures"
    rng = np.random.default_rng(0)
    seeds = []
    for label in "ab":
        (root / label).mkdir(parents=True)
        for number, suffix in enumerate(("png", "jpg", "png", "gif")):
            path = root / label / f"{number}.{suffix}"
            Image.fromarray(rng.integers(0, 255, (9, 8, 3), dtype=np.uint8)).save(path)
            seeds.append(path.read_bytes())

    def picture(data: bytes) -> None:
        path = scratch / "p.png"
        path.write_bytes(data)
        decode_rgb(str(path))
        read_centre(str(path), resolution=8, crop_ratio=0.875)

    def classes(data: bytes) -> None:
        (root / "classes.txt").write_bytes(data)
        open_dataset(str(root))

    return {
        "pictures": Subject(cases=st.sampled_from(seeds).flatmap(changed_bytes), act=picture),
        "classes.txt": Subject(cases=changed_bytes(b"a cat\nb dog\n"), act=classes, weight=0.5),
    }


def _writing(path: Path, act: Callable[[Path], object]) -> Callable[[bytes], object]:
    def do(data: bytes) -> object:
        path.write_bytes(data)
        return act(path)

    return do


def _first(rows: Any) -> Any:
    return rows.sum(1).astype(float)


def _last(rows: Any) -> Any:
    return -rows[:, -1].astype(float)
