"""Damaged runs, data that hurt, settings that cannot be: one line, and nothing is written."""

from __future__ import annotations

import errno
import json
import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from onceforall.artifacts import Card
from onceforall.data import open_dataset
from onceforall.errors import DataError
from tests.cli.command import ofa
from tests.hostile.test_believed import refused
from tests.hostile.test_reading import NO_YAML
from tests.hostile.trial import Tally, memory
from tests.hostile.world import least_settings

# -- 9: damaged files of a run ---------------------------------------------------------------------

DAMAGE = (b"", b"null", b"\xff\x00\x80", b"{}\n", b'{"event": 3, "arch": [1e308]}\n', b"[" * 3000)
READERS = {
    "run.yaml": ("train", "--status", "RUN"),
    "events.jsonl": ("train", "--status", "RUN"),
    "progress.json": ("train", "--status", "RUN"),
    "evaluations.jsonl": ("predictor", "train", "RUN"),
    "predictor.safetensors": ("search", "RUN"),
    "predictor.json": ("predictor", "eval", "RUN"),
    "latency/ort-cpu-1t.json": ("search", "RUN"),
    "checkpoints/supernet.json": ("specialize", "RUN", "--arch", "ARCH", "--name", "x"),
    "checkpoints/supernet.safetensors": ("specialize", "RUN", "--arch", "ARCH", "--name", "x"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_line(name: str, world: Path, run: Path, model: Path) -> None:
    places = {"RUN": run, "IMAGES": world / "images.npz", "ARCH": model / "arch.json"}
    for data in DAMAGE:
        if name.endswith(".jsonl"):
            if not data:
                continue  # an empty log is none
            data = data.rstrip() + b"\n"  # a line without its end was cut by a crash
        (run / name).write_bytes(data)
        refused(ofa(*(places.get(part, part) for part in READERS[name])), Path(name).stem)
        assert ofa("report", run).status == (2 if name == "run.yaml" else 0)


def test_what_was_damaged_is_deleted_and_the_same_command_goes_on(world: Path, run: Path) -> None:
    command = ("run", world / "images.npz", "--out", run, *least_settings())
    for name in ("evaluations.jsonl", "progress.json", "checkpoints/supernet.json"):
        (run / name).write_bytes(b"[")
    (run / "search/front.json").unlink()
    (run / "search/journal.jsonl").write_bytes(b"[\n")
    for _ in range(6):
        done = ofa(*command)
        if done.status == 0:
            break
        assert "; delete it and the same command goes on" in done.err, done.err
        said = done.err.splitlines()[-1].removeprefix("ofa: ")
        Path(said.partition(" is damaged")[0].split(" line ")[0]).unlink()
    assert done.status == 0, done.err
    for name in ("evaluations.jsonl", "checkpoints/supernet.json", "search/front.json"):
        assert (run / name).read_bytes() == (world / "run" / name).read_bytes(), name


# -- 10: arrays ------------------------------------------------------------------------------------


def _arrays(**changes: object) -> dict[str, object]:
    x, y = np.zeros((12, 8, 8, 3), np.uint8), np.arange(12) % 2
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y, **changes}


BAD_ARRAYS = {
    "label of 2**31": ({"y_train": np.array([0, 2**31] * 6)}, "label 2147483648 is not from 0 to"),
    "label of 2**63": ({"y_train": np.array([0, 2**63] * 6, np.uint64)}, "is not from 0 to"),
    "scalar name": ({"class_names": np.array("abc")}, "not a list of texts"),
    "numbers as names": ({"class_names": np.array([1, 2])}, "not a list of texts"),
    "a name twice": ({"class_names": np.array(["a", "a"])}, "'a' is there twice"),
    "a long name": ({"class_names": np.array(["a", "b" * 10**6])}, "1000000 letters"),
    "an empty name": ({"class_names": np.array(["a", ""])}, "an empty one"),
    "too few names": ({"class_names": np.array(["a"])}, "label 1, but there are 1 class_names"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_arrays_that_cannot_be(kind: str, tmp_path: Path) -> None:
    changes, words = BAD_ARRAYS[kind]
    np.savez(tmp_path / "x.npz", **_arrays(**changes))
    tally = Tally()
    with memory(tally), pytest.raises(DataError, match=words):
        open_dataset(str(tmp_path / "x.npz"))
    assert tally.peak_mb < 200


def test_headers_that_lie_and_archives_that_swell(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **_arrays())
    data = path.read_bytes().replace(b"(12, 8, 8, 3)", b"(12, 8, 8,4**9)"[:13])
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.npz"):
        open_dataset(str(path))
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999, 999, 999, 3), }"
    header = header.ljust(117) + b"\n"
    lying = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", lying)
    with pytest.raises(DataError, match="its header says 299,397,305,997 bytes, the archive 192"):
        open_dataset(str(path))


# -- 11: settings ----------------------------------------------------------------------------------

SETTINGS = [
    "latency.target=foo", "latency.target=ssh:../../x", "latency.budget_s=.inf",
    "search.population_size=100000000000", "search.population_size=1e11", "train.epochs=1e21",
    "train.epochs=1" + "0" * 21, "train.learning_rate=.inf", "train.learning_rate=1e300",
    "train.threads=100000", "train.batch_size=100000000000", "train.micro_batches=17",
    "supernet.stem_width=-5", "supernet.stem_width=1000000000", "supernet.expand_ratios=[0]",
    "supernet.resolutions=[1]", "supernet.resolutions=[100000]", "supernet.widths=[]",
    "supernet.divisor=0", "supernet.width_mults=[.nan]", "supernet.expand_ratios=[2, .inf]",
    "supernet.kernel_sizes=[1001]", "supernet.kernel_sizes=[4]", "supernet.depths=[0, 1]",
    "supernet.depths=[2, 1]", "supernet.kernel_sizes=[3, 3]", "supernet.widths=[60000, 60000]",
    "search.limits={macs: .nan}", "seed=1" + "0" * 23, "data.num_valid=100000",
    "data.std=[0, 0, 0]", "data.mean=[.nan, 0, 0]", "supernet=[1, 2]", "train=null",
    "supernet.table={type: [x]}", "train.init=/dev/zero", "train=&a [*a]", "train.epochs=[[[",
]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda text: text[:40])
def test_a_setting_that_cannot_be_is_refused_before_anything_is_written(
    setting: str, world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = ofa("run", world / "images.npz", "--out", out, *least_settings(), "--set", setting)
    refused(done)
    said = {
        "train.init=/dev/zero": "no weights file at /dev/zero",
        "supernet.widths=[60000, 60000]": "mid_channels 180000",
    }
    key = setting.partition("=")[0].rpartition(".")[2]
    assert said.get(setting, key.split("_")[0]) in done.err
    assert not out.exists()


@pytest.mark.parametrize("kind", NO_YAML)
def test_a_file_of_settings_that_hurts(kind: str, world: Path, run: Path, tmp_path: Path) -> None:
    config, out = tmp_path / "c.yaml", tmp_path / "out"
    config.write_text(NO_YAML[kind][0])
    refused(ofa("run", world / "images.npz", "--out", out, "--config", config))
    assert not out.exists()
    (run / "run.yaml").write_text(NO_YAML[kind][0])
    refused(ofa("train", "--status", run), "run.yaml is damaged" if kind != "huge" else "run.yaml")


def test_options_that_cannot_be(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "c.yaml").write_bytes(bytes(range(128, 256)))
    os.mkfifo(tmp_path / "pipe")
    for options in (
        ("--seed", "1" + "0" * 23), ("--budget", "9" * 400), ("--config", tmp_path / "c.yaml"),
        ("--config", tmp_path / "pipe"),
        ("--config", "/dev/zero"), ("--limit", "latency_ms=nan"), ("--net", tmp_path / "c.yaml"),
    ):  # fmt: skip
        refused(ofa("run", world / "images.npz", "--out", out, *least_settings(), *options))
        assert not out.exists(), options
    for epochs in ("1e400", "nan", "1e21"):
        refused(ofa("run", world / "images.npz", "--out", out, "--epochs", epochs), "epochs")
        assert not out.exists()


# -- 13: pictures, names, and a disk that is full --------------------------------------------------


def test_colours_of_a_large_picture_are_counted_in_little_memory(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        for part in ("train", "val"):
            Image.new("RGB", (9, 8), (10, 20, 30)).save(tmp_path / "data" / part / name / "1.png")
    large = Image.new("RGB", (5000, 5000), (255, 0, 128))
    large.save(tmp_path / "data" / "train" / "a" / "2.png", compress_level=1)
    tally = Tally()
    del large
    with memory(tally):
        bundle = open_dataset(str(tmp_path / "data"))
    assert tally.peak_mb < 250  # 100 MB of pixels as Pillow keeps them; counted as integers 1 GB
    assert bundle.mean == pytest.approx((1.0, 0.0, 128 / 255), abs=1e-3)


def test_a_pipe_among_pictures_is_no_picture(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (9, 8)).save(tmp_path / name / f"{number}.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "b" / "zero.png").symlink_to("/dev/zero")
    bundle = open_dataset(str(tmp_path))
    assert bundle.num_train + bundle.num_test == 8
    assert "2 files are no images" in bundle.notes[0]


def test_names_cannot_move_the_cursor(tmp_path: Path, world: Path) -> None:
    evil = "a\x1b[2J\nb\u202e"
    refused(ofa("data", tmp_path / evil), "\\x1b[2J")
    root = tmp_path / evil
    for name in ("x\x1b]0;title\x07", "y"):
        (root / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((8, 8, 3), 30 * number, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
        (root / name / "\x1b[31m.txt").touch()
    done = ofa("data", root)
    assert done.status == 0
    assert "\x1b" not in done.out + done.err and "\\x1b" in done.out
    assert len(done.out.splitlines()) == len(ofa("data", world / "images.npz").out.splitlines())
    few = least_settings(data__num_valid="2", data__num_calibration="2")
    done = ofa("run", root, "--out", tmp_path / "out", *few, "--until", "plan")
    assert "\x1b" not in done.err and "\\x1b" in done.err


def test_a_disk_that_fills_during_specialize_leaves_no_model_without_a_card(
    run: Path, model: Path
) -> None:
    def full(card: Card, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with mock.patch.object(Card, "write", full):
        done = ofa("specialize", run, "--arch", model / "arch.json", "--name", "second")
    refused(replace(done, err=done.err.splitlines(keepends=True)[-1]), "No space left on device")
    assert [path.name for path in (run / "models").iterdir()] == [model.name]


# -- 12: what verbs are given ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["3", "[]", "null", '"x"', "{}", '{"type": ["x"]}', '{"arch": 3}', "[" * 2000,
             '{"resolution": Infinity}', '{"ks": {}, "d": [[]], "e": 1e999}'],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_files_of_other_kinds_are_one_line(
    text: str, world: Path, run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "f.json"
    path.write_text(text)
    refused(ofa("specialize", run, "--arch", path))
    refused(ofa("latency", "show", path))
    refused(ofa("eval", world / "images.npz", "--net", path, "--weights", world / "weights.pth"))
    refused(ofa("run", world / "images.npz", "--out", tmp_path / "out", "--net", path))
    card = json.loads((next((run / "models").iterdir()) / "card.json").read_text())
    assert card["name"]
