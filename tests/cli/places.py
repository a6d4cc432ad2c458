"""Small real files of every kind that a verb reads, made once: the nouns of the option cases."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from onceforall.blueprint import blueprint_from_json
from onceforall.deploy.model_folder import model_folders
from onceforall.files import read_json, write_json
from onceforall.measure.costs import count_macs
from onceforall.supernets.families import published_spec
from onceforall.supernets.static import build
from onceforall.supernets.supernet import Supernet
from onceforall.supernets.weights import save_supernet
from onceforall.zoo import load_static
from tests.cli.command import ofa
from tests.job.tiny_run import SETTINGS, write_images
from tests.search.test_published_search import write_predictor
from tests.training.tiny import CLASSES, SPEC, tiny_images

_SHORTER = {"train.epochs=10": "train.epochs=1", "latency.budget_s=2": "latency.budget_s=1"}
TINY = tuple(part for setting in SETTINGS for part in ("--set", _SHORTER.get(setting, setting)))


class FakeCifar:
    """Stands for torchvision's CIFAR10: images as many as the file ``count`` in its root says."""

    classes = tuple("abcdefghij")

    def __init__(self, root: str, *, train: bool, download: bool) -> None:
        count = int((Path(root) / "count").read_text())
        rng = np.random.default_rng(int(train))
        self.data = rng.integers(0, 255, size=(count, 32, 32, 3), dtype=np.uint8)
        self.targets = [i % 10 for i in range(count)]


def make_places(folder: Path) -> dict[str, str]:
    """Make everything in ``folder``; return the place of each by its name in the cases."""
    places = {name: folder / name for name in ("nothing", "run", "run_b", "planned")}
    places |= {"images": write_images(folder / "images.npz")}
    places |= {"images_b": _other_images(folder / "images_b.npz"), "file": folder / "binary.yaml"}
    places["file"].write_bytes(bytes(range(128, 256)))
    places["yaml"] = folder / "my.yaml"
    places["yaml"].write_text("search: {caution: 1.5}\n")
    for name, damaged in (("pictures", False), ("damaged", True)):
        places[name] = _write_pictures(folder / name, damaged=damaged)
    for name in ("thousand", "thousand_b"):
        places[name] = _write_pictures(folder / name, classes=1000)
    for name, count in (("root_a", 100), ("root_b", 130)):
        places[name] = folder / name
        places[name].mkdir()
        (places[name] / "count").write_text(str(count))
    _make_runs(places)
    texts = _make_models(folder, places)
    return {name: str(path) for name, path in places.items()} | texts | {"world": str(folder)}


def _other_images(path: Path) -> Path:
    train, test = tiny_images(120, seed=2), tiny_images(30, seed=3)
    np.savez(
        path,
        x_train=train.images.permute(0, 2, 3, 1).numpy(),
        y_train=train.labels.numpy(),
        x_test=test.images.permute(0, 2, 3, 1).numpy(),
        y_test=test.labels.numpy(),
    )
    return path


def _write_pictures(root: Path, *, damaged: bool = False, classes: int = 0) -> Path:
    """Write files that are no squares, so that they stay files; one of each part may be none.

    With a number of classes, there are so many by name.
    """
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for label in range(CLASSES):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, size=(20, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
            if damaged and label == 0:
                (folder / "broken.png").write_bytes(b"no image")
    if classes:
        names = "".join(f"class{label}\n" for label in range(classes))
        (root / "classes.txt").write_text(names)
    return root


def _make_runs(places: dict[str, Path]) -> None:
    images = places["images"]
    for name, more in (
        ("run", ["--set", "train.epochs=3"]),
        ("run_b", ["--seed", "1"]),
        ("planned", ["--set", "supernet.kernel_sizes=[3]", "--until", "plan"]),
    ):
        done = ofa("run", images, "--out", places[name], *TINY, *more)
        assert done.status == 0, done.err


def _make_models(folder: Path, places: dict[str, Path]) -> dict[str, str]:
    """Make what comes out of the runs, and weights that were not trained; return names."""
    texts = {}
    for suffix, run in (("", "run"), ("_b", "run_b")):
        models = model_folders(places[run])
        places[f"table{suffix}"] = places[run] / "latency" / "ort-cpu-1t.json"
        places[f"model{suffix}"] = models[0]
        texts[f"model_name{suffix}"] = models[0].name
    places["supernet"] = places["run"] / "checkpoints" / "supernet.safetensors"
    space = SPEC.space
    for name, arch in (("arch", space.smallest), ("arch_b", space.largest)):
        places[name] = folder / f"{name}.json"
        write_json(places[name], arch.to_json())
    done = ofa("specialize", places["run"], "--arch", places["arch_b"], "--name", "second")
    assert done.status == 0, done.err
    places["model_2"], texts["model_name_2"] = places["run"] / "models" / "second", "second"
    least = min((read_json(path) for path in places["run"].glob("models/*/card.json")), key=_macs)
    texts["least_macs"] = str(_macs(least))
    texts["macs"] = str(
        1.5 * count_macs(SPEC.blueprint(space.smallest), resolution=space.resolutions[0])
    )
    for name, sign in (("predictor", 1), ("predictor_b", -1)):
        places[name] = write_predictor(folder / f"{name}.pth", resnet=False)
        torch.save({k: sign * v for k, v in torch.load(places[name]).items()}, places[name])
    for name, form in (("net_config", "config"), ("weights", "published")):
        places[name] = folder / f"{name}.{'json' if form == 'config' else 'pth'}"
        done = ofa("export", places["model"], "--format", form, "--out", places[name])
        assert done.status == 0, done.err
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = build(blueprint_from_json(read_json(places["model"] / "card.json")["blueprint"]))
        ten = Supernet(dataclasses.replace(SPEC, num_classes=10))
    places["weights_b"] = folder / "weights_b.pth"
    torch.save({"state_dict": plain.published_state_dict()}, places["weights_b"])
    for seed, name in enumerate(("ofa_weights", "ofa_weights_b")):
        places[name] = folder / f"{name}.pth"
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            published = Supernet(published_spec("ofa_mbv3_d234_e346_k357_w1.0"))
        torch.save({"state_dict": published.published_state_dict()}, places[name])
    places["ofa_arch"] = folder / "ofa_arch.json"
    write_json(places["ofa_arch"], published.space.smallest.to_json())
    for seed, name in enumerate(("zoo_weights", "zoo_weights_b")):
        places[name] = folder / f"{name}.pth"
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            zoo = load_static("proxyless_cpu").model
        torch.save({"state_dict": zoo.published_state_dict()}, places[name])
    places["ten"] = folder / "ten.safetensors"
    grey = [0.5, 0.5, 0.5]
    save_supernet(ten, places["ten"], facts={"mean": grey, "std": grey, "crop_ratio": 1.0})
    return texts


def _macs(card: Any) -> int:
    return int(card["macs"])


def copy_run(places: dict[str, str], name: str, to: Path) -> Path:
    """Copy a run for a verb that writes into it."""
    shutil.copytree(places[name], to)
    return to
