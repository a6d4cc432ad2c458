"""The Python and the commands of the pages in ``docs`` run as they stand, in a shorter time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

from onceforall.cli.app import app
from onceforall.job.nets import net_flags
from onceforall.supernets.spec import MBConvSpec
from onceforall.supernets.weights import spec_from_json
from tests.pages import DOCS, ROOT, fences, is_run, run_page, shown_commands

# What makes the run of the pages short, in Python and on the command line alike. Left to the plan,
# the network would depend on how fast this machine is, and the limits that the pages show with it.
SHORT = {
    "supernet.widths": [16, 48, 96],
    "train.epochs": 2,
    "evaluate.num_archs": 24,
    "latency.budget_s": 2,
    "search.population_size": 24,
    "search.generations": 8,
    "search.num_models": 3,
}
REPLACED = {'budget="2m"': f"settings={SHORT}"}
MORE = {
    "ofa run digits": [
        word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")
    ],
}
# The first makes the run that the others look at and add to.
OF_A_RUN = (
    "quickstart.md",
    "report.md",
    "python.md",
    "using.md",
    "pictures.md",
    "latency.md",
    "interrupting.md",
    "finetuning.md",
)
ALONE = (
    "glossary.md",
    "search.md",
    "experiments.md",
    "own-network.md",
    "stage-tables.md",
    "coming-from-ofa.md",
    "published.md",
    "distributed.md",
    "measurement.md",
    "reproducibility.md",
)


def run(name: str) -> str:
    return run_page(DOCS / name, replaced=REPLACED, more=MORE)


def test_pages_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    datasets = pytest.importorskip("sklearn.datasets")
    monkeypatch.chdir(tmp_path)
    digits = datasets.load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:40], digits.target, strict=False)):
        folder = Path("pictures") / ("odd" if label % 2 else "even")
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((image * 15).astype(np.uint8)).resize((20, 32))
        picture.save(folder / f"{number}.png")
        if label == 3:
            picture.save("three.png")
    for name in OF_A_RUN:
        if name == "latency.md":
            (table,) = Path("runs/digits/latency").glob("*.json")
            for device in ("phone", "laptop"):
                shutil.copy(table, f"{device}.json")
        run(name)
    card = json.loads(Path("runs/own-models/small/card.json").read_text())
    assert card["data"] == "digits" and card["mean"] != [0, 0, 0]
    assert "net01" in Path("runs/digits/report.html").read_text()


@pytest.mark.parametrize("name", ALONE)
def test_pages_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(name)


def test_what_is_to_be_run_is_run() -> None:
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if is_run(page)}
    assert pages == {*OF_A_RUN, *ALONE}


def test_the_rehearsed_table_is_what_its_block_prints(capsys: pytest.CaptureFixture[str]) -> None:
    run("distributed.md")
    (shown,) = [fence.text for fence in fences(DOCS / "distributed.md") if fence.language == "text"]
    assert capsys.readouterr().out == shown


def options_of(words: list[str]) -> tuple[list[str], set[str]]:
    """Return the options among the words of a command, and those that its verb has."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    assert not hasattr(command, "commands"), f"no verb {words}"
    known = {option for parameter in command.params for option in parameter.opts}
    return [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)], known


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in DOCS.glob("*.md"))])
def test_commands_that_are_shown_exist(page: str) -> None:
    for words in shown_commands(ROOT / page):
        if words and words[0].startswith("--"):
            continue  # of ofa itself
        used, known = options_of(words)
        assert set(used) <= known | {"--help"}, words


def test_commands_are_found() -> None:
    """The test above sees what it should."""
    found = [words for page in DOCS.glob("*.md") for words in shown_commands(page)]
    assert len(found) > 40
    assert ["verify", "runs/digits"] in found
    with pytest.raises(AssertionError, match="no verb"):
        options_of(["prove", "runs/digits"])


def test_own_stage_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (table,) = [f.text for f in fences(DOCS / "stage-tables.md") if f.language == "yaml"]
    Path("mynet.yaml").write_text(table)
    (family, value) = net_flags("mynet.yaml")
    assert family == "supernet.family=table"
    spec = spec_from_json(yaml.safe_load(value.partition("=")[2]))
    assert isinstance(spec, MBConvSpec)
    assert [stage.block for stage in spec.stages] == ["residual", "fused_mbconv", "mbconv"]


@pytest.mark.parametrize("script", ["reference", "charts"])
def test_what_is_made_by_a_script_is_up_to_date(script: str) -> None:
    check = [sys.executable, str(DOCS / f"{script}.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["settings", "files"])
def test_nothing_of_the_reference_is_without_a_word(name: str) -> None:
    for line in (DOCS / "reference" / f"{name}.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        assert not line.startswith("| `") or cells[2], line


# -- the site -------------------------------------------------------------------------------------


def in_navigation(part: Any) -> set[str]:
    """Return the pages of a part of the navigation."""
    if isinstance(part, str):
        return {part}
    parts = part.values() if isinstance(part, dict) else part
    return set().union(*map(in_navigation, parts))


def test_every_page_is_in_the_navigation() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert in_navigation(site["nav"]) == {str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")}


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the site and GitHub write them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
