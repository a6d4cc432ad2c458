"""``make benchmarks``: scripts have rows, commands are what scripts take, results stay."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import everything
from benchmarks.everything import BENCHMARKS, BY_HAND, ROOT, main, table

SCRIPTS = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"everything.py"}


def test_every_script_has_its_row() -> None:
    assert {each.script for each in BENCHMARKS.values()} | set(BY_HAND) == SCRIPTS
    assert not {each.script for each in BENCHMARKS.values()} & set(BY_HAND)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_options_are_those_of_the_script(name: str) -> None:
    each = BENCHMARKS[name]
    source = (ROOT / "benchmarks" / each.script).read_text()
    for option in re.findall(r"--[a-z-]+", f"{each.arguments} {each.short or ''}"):
        assert f'"{option}"' in source
    assert "{" not in " ".join(each.command(Path("scratch")))


def test_the_page_has_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines() == table()
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert page.partition(everything.MARK)[2].strip().startswith("\n".join(table()))
    for name in BENCHMARKS:
        assert f"| `{name}` |" in page


@pytest.fixture
def small_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two benchmarks that take no time, one of which fails, and one that is not possible."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/good.py").write_text("print('ratio 2.0')")
    (tmp_path / "benchmarks/bad.py").write_text("raise SystemExit('ratio 0.5 is below the bar')")
    long = "import tempfile; print(tempfile.gettempdir(), *range(99), sep='\\n')"
    (tmp_path / "benchmarks/long.py").write_text(long)
    forward = BENCHMARKS["forward"]
    fake = {
        "good": replace(forward, script="good.py", claim="two is more than one"),
        "long": replace(forward, script="long.py"),
        "bad": replace(forward, script="bad.py", short=None),
        "far": replace(forward, script="good.py", needs="a/folder/that/is/not/there"),
    }
    monkeypatch.setattr(everything, "BENCHMARKS", fake)
    monkeypatch.setattr(everything, "ROOT", tmp_path)
    monkeypatch.setattr(everything, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(everything, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(f"# Benchmarks\n\n{everything.MARK}stale\n")
    return tmp_path


def test_results_are_kept(small_house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bad"]) == 1
    assert main(["good", "far"]) == 0
    assert "far: left out, it needs a/folder" in capsys.readouterr().out
    assert main(["good"]) == 0
    rows = everything.read_rows(small_house / "results")
    assert [(row["name"], row["status"]) for row in rows] == [("good", "0"), ("bad", "1")]
    assert all(row["torch"] and row["processor"] for row in rows)
    page = (small_house / "page.md").read_text()
    assert page.startswith("# Benchmarks\n\n") and "stale" not in page
    assert "## Two is more than one" in page and "ratio 2.0" in page
    assert "ratio 0.5 is below the bar" in page


def test_the_page_shows_the_end_of_what_is_long_and_no_path(small_house: Path) -> None:
    assert main(["long"]) == 0
    page, shown = (small_house / "page.md").read_text(), everything.MOST_LINES
    assert f"The last {shown} of [100 lines](results/benchmarks/long.txt):" in page
    assert "\n98\n```" in page and f"\n{99 - shown}\n" in page
    assert f"\n{98 - shown}\n" not in page
    kept = (small_house / "results/benchmarks/long.txt").read_text().splitlines()
    assert len(kept) == 100 and kept[0] == "{scratch}"


def test_short_writes_nothing(small_house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--short"]) == 0
    assert "bad: left out, it has no short form" in capsys.readouterr().out
    assert not (small_house / "results").exists()


def test_a_real_one_runs() -> None:
    pytest.importorskip("simplejpeg")
    assert main(["--short", "input"]) == 0


def test_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["backward"])
    assert "'backward' is not one of forward," in capsys.readouterr().err
