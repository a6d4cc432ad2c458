"""Every step of the whole job on real pictures: arrays, small photographs and large ones.

Without the shared data, textures drawn with a seed stand in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from onceforall.cli.app import app
from onceforall.deploy.model_folder import MAX_ROUNDING_ERROR, model_folders
from onceforall.files import read_jsonl
from onceforall.job.steps import confirm
from tests.shared_data import shared_data

pytest.importorskip("onnxruntime")
Pixels = NDArray[np.uint8]
SMALL = (
    "data.num_valid=60",
    "data.num_calibration=48",
    "train.epochs=1",
    "train.batch_size=32",
    "train.subnets_per_step=2",
    "train.threads=1",
    "evaluate.num_archs=10",
    "latency.budget_s=2",
    "search.population_size=24",
    "search.generations=6",
    "search.num_models=3",
)


def texture(label: int, side: int, rng: np.random.Generator) -> Pixels:
    """Return stripes ``(side, side, 3)`` whose direction and period tell the label."""
    y, x = np.mgrid[:side, :side] / side
    angle = label * math.pi / 5
    phase = 4 * (label % 3 + 2) * (math.cos(angle) * x + math.sin(angle) * y) + rng.uniform(0, 6)
    waves = 128 + 60 * np.sin(phase)[..., None] * rng.uniform(0.3, 1, 3)
    noisy = waves + rng.normal(0, 20, (side, side, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def cifar_images(split: str, count: int) -> tuple[Pixels, NDArray[np.int64]]:
    """Return the first images of CIFAR-10 and their labels; a mosaic holds 25 rows of 40."""
    mosaic = np.asarray(Image.open(shared_data("cifar10", f"{split}_00.webp")).convert("RGB"))
    tiles = mosaic.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1000, 32, 32, 3)
    return tiles[:count], np.load(shared_data("cifar10", "labels.npz"))[f"y_{split}"][:count]


def textures(seed: int, count: int) -> tuple[Pixels, NDArray[np.int64]]:
    rng, labels = np.random.default_rng(seed), np.arange(count) % 10
    return np.stack([texture(label, 32, rng) for label in labels]), labels


def has(*parts: str) -> bool:
    """Say whether the shared data has it."""
    try:
        return shared_data(*parts).exists()
    except pytest.skip.Exception:
        return False


def arrays_32px(folder: Path) -> Path:
    if has("cifar10"):
        train, test = cifar_images("train", 320), cifar_images("test", 150)
    else:
        train, test = textures(0, 320), textures(1, 150)
    path = folder / "pictures.npz"
    np.savez(path, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
    return path


def write_textures(folder: Path, side: int, classes: int, count: int) -> None:
    """Write ``count`` photographs of each class into class folders."""
    rng = np.random.default_rng(count)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(count):
            Image.fromarray(texture(label, side, rng)).save(folder / f"class{label}" / f"{i}.jpg")


def link(files: Iterator[Path], folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for file in sorted(files)[:count]:
        (folder / file.name).symlink_to(file.resolve())


def photographs_64px(folder: Path) -> Path:
    root = folder / "photographs"
    for split, count in (("train", 80), ("val", 20)):
        if not has("photos64"):
            write_textures(root / split, 64, 3, count)
            continue
        for source in sorted(shared_data("photos64", split).iterdir())[:3]:
            link(source.iterdir(), root / split / source.name, count)
    return root


def photographs_227px(folder: Path) -> Path:
    """Return a folder of three classes of 80 photographs, not split; fish to birds, and so on."""
    root = folder / "large"
    if not has("imagenet_val1300"):
        write_textures(root, 120, 3, 80)
        return root
    for start in ("n01", "n02", "n03"):
        link(shared_data("imagenet_val1300", "val").glob(f"{start}*/*"), root / start, 80)
    return root


def ofa(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("pictures", "family", "settings"),
    [
        (
            arrays_32px,
            "small_images",
            ("supernet.family=small_images", "supernet.resolutions=[24,32]"),
        ),
        (photographs_64px, "residual", ("train.epochs=12", "data.num_valid=60")),
        (
            photographs_227px,
            "mobilenet_v3",
            (
                "supernet.family=mobilenet_v3",
                "supernet.resolutions=[64,96]",
                "supernet.width_mult=0.35",
                "data.num_workers=0",
            ),
        ),
    ],
    ids=["npz-32px", "photographs-64px", "photographs-227px"],
)
def test_a_run_on_pictures_ships_several_proven_models(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pictures: Callable[[Path], Path],
    family: str,
    settings: tuple[str, ...],
) -> None:
    # After one epoch accuracy is near chance: who beats whom is luck, and one may beat all.
    monkeypatch.setattr(confirm, "clearly_beats", lambda first, second: False)
    flags = [part for setting in (*SMALL, *settings) for part in ("--set", setting)]
    done = ofa("run", pictures(tmp_path), "--out", tmp_path / "run", *flags)
    assert done.exit_code == 0, done.output
    assert f"network: {family}" in done.stderr and "not shipped" not in done.stdout
    folders = model_folders(tmp_path / "run")
    assert len(folders) >= 2
    assert sorted(folders) == sorted((tmp_path / "run" / "models").iterdir())
    for folder in folders:
        checks = json.loads((folder / "card.json").read_text())["checks"]
        assert checks["extracted_relative_error"] <= MAX_ROUNDING_ERROR
        assert checks["safetensors_relative_error"] <= MAX_ROUNDING_ERROR
        assert checks["onnx_relative_error"] <= 1e-4
    assert (tmp_path / "run" / "report.html").is_file()
    # An arch of one's own ships as the winners do.
    own = tmp_path / "arch.json"
    own.write_text(json.dumps(read_jsonl(tmp_path / "run" / "evaluations.jsonl")[-1]["arch"]))
    one = ofa("specialize", tmp_path / "run", "--arch", own, "--name", "own")
    assert one.exit_code == 0, one.output
    verified = ofa("verify", tmp_path / "run")
    assert verified.exit_code == 0, verified.output
    assert verified.stdout.count(": verified") == len(folders) + 1
