"""The doors: the whole job, its training, a search, a shipped model, each as one call."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from typer.testing import CliRunner

import onceforall as ofa
from onceforall.cli.app import app
from onceforall.deploy.model_folder import model_folders, verify_folder
from onceforall.errors import ConfigError, DataError, VerificationError
from onceforall.measure.subnet import evaluate_arch
from onceforall.predictors.accuracy import AccuracyPredictor
from onceforall.supernets.families import published_spec
from onceforall.supernets.supernet import Supernet
from onceforall.training.plan import sandwich_plan
from tests.job.tiny_run import SETTINGS, write_images
from tests.training.tiny import SPEC, tiny_images, tiny_net

pytest.importorskip("onnxruntime")

# Everything of a tiny run but its network.
REST = [s for s in SETTINGS if not s.startswith("supernet.")]
TABLE = """
type: MBConvSpec
stem_width: 8
stem_stride: 1
resolutions: [8, 12]
stages:
  - {type: MBConvStage, block: residual, width: 8, stride: 1, activation: relu, num_blocks: 2,
     squeeze_excite: false, depths: [1, 2], kernel_sizes: [3], expand_ratios: [0.5, 1.0]}
  - {type: MBConvStage, block: mbconv, width: 16, stride: 2, activation: relu, num_blocks: 1,
     squeeze_excite: true, depths: [1], kernel_sizes: [3, 5], expand_ratios: [2, 3]}
"""


def test_a_stage_table_of_ones_own_goes_through_the_whole_job(tmp_path: Path) -> None:
    table = tmp_path / "mynet.yaml"
    table.write_text(TABLE)
    flags = [part for setting in REST for part in ("--set", setting)]
    images, out = write_images(tmp_path / "images.npz"), tmp_path / "run"
    done = CliRunner().invoke(
        app, ["run", str(images), "--out", str(out), "--net", str(table), *flags]
    )
    assert done.exit_code == 0, done.output
    folders = model_folders(out)
    assert folders and all(verify_folder(folder) for folder in folders)
    spec = json.loads((out / "checkpoints" / "supernet.json").read_text())["spec"]
    assert [stage["block"] for stage in spec["stages"]] == ["residual", "mbconv"]
    assert spec["resolutions"] == [8, 12] and spec["num_classes"] == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "is no stage table"),
        ("- 1", "it holds list"),
        ("type: Nothing", "record type 'Nothing' is not one of"),
        ("type: MBConvSpec\nwidth: 3", "MBConvSpec"),
    ],
)
def test_a_broken_stage_table_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    table = tmp_path / "mynet.yaml"
    table.write_text(text)
    command = ["run", "digits", "--out", str(tmp_path / "run"), "--net", str(table)]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, ConfigError) and problem in str(done.exception)
    assert not (tmp_path / "run").exists()


def test_released_weights_are_searched_without_training(tmp_path: Path) -> None:
    """Weights under the published names, loaded as they are: evaluate, predict, search, ship."""
    net_id = "ofa_mbv3_d234_e346_k357_w1.0"
    torch.manual_seed(0)
    net = Supernet(published_spec(net_id, num_classes=3))
    torch.save({"state_dict": net.published_state_dict()}, tmp_path / "released.pth")
    done = ofa.run(
        write_images(tmp_path / "images.npz"),
        out=tmp_path / "run",
        net=net_id,
        weights=tmp_path / "released.pth",
        epochs=0,
        settings={
            "supernet.resolutions": [32],
            "data.num_valid": 30,
            "data.num_calibration": 30,
            "train.threads": 1,
            "train.autocast": False,
            "evaluate.num_archs": 12,
            "latency.budget_s": 2.0,
            "search.population_size": 16,
            "search.generations": 2,
            "search.num_models": 2,
            "search.num_candidates": 3,
        },
        device="cpu",
    )
    assert done.cards and not done.failed
    for folder in model_folders(tmp_path / "run"):
        assert verify_folder(folder)
    kept = Supernet(published_spec(net_id, num_classes=3))
    kept.load_state_dict(_tensors(tmp_path / "run" / "checkpoints" / "supernet.safetensors"))
    for name, tensor in net.state_dict().items():
        assert torch.equal(kept.state_dict()[name], tensor), name


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_nothing_is_loaded_where_there_is_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.epochs 0 trains nothing: it needs trained"):
        ofa.run(write_images(tmp_path / "images.npz"), out=tmp_path / "run", epochs=0)
    assert not (tmp_path / "run").exists()


class Pictures(Dataset):
    """A data set of one's own."""

    classes = ("red", "green", "blue")

    def __init__(self, count: int) -> None:
        self.images = tiny_images(count)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        pixels = self.images.images[index].permute(1, 2, 0).numpy()
        return Image.fromarray(pixels), int(self.images.labels[index])


def settings() -> dict[str, object]:
    pairs = (setting.partition("=") for setting in SETTINGS)
    return {key: _value(text) for key, _, text in pairs}


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def test_a_data_set_of_ones_own_is_run(tmp_path: Path) -> None:
    done = ofa.run(Pictures(200), out=tmp_path / "run", settings=settings(), device="cpu")
    assert done.cards[0].classes == ("red", "green", "blue")
    assert done.run.bundle.num_train == 160 and done.run.bundle.num_test == 40
    again = ofa.run(Pictures(200), out=tmp_path / "run", settings=settings(), device="cpu")
    assert again.cards == done.cards


def test_arrays_are_written_as_they_are(tmp_path: Path) -> None:
    from onceforall.data.sources.write_npz import write_own

    images = tiny_images(30)
    arrays = (images.images.permute(0, 2, 3, 1).numpy(), images.labels.numpy())
    write_own((arrays, arrays), tmp_path / "own.npz")
    found = np.load(tmp_path / "own.npz")
    assert (found["x_train"] == arrays[0]).all() and (found["y_test"] == arrays[1]).all()
    for wrong in ((arrays[0] / 255.0, arrays[1]), (arrays[0][:5], arrays[1]), (1, 2, 3)):
        with pytest.raises(DataError):
            write_own(wrong, tmp_path / "wrong.npz")  # type: ignore[arg-type]
    assert not (tmp_path / "wrong.npz").exists()


def test_a_run_goes_on_with_its_own_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onceforall.job import run as jobs

    started: list[np.ndarray] = []
    monkeypatch.setattr(
        jobs,
        "run_all",
        lambda request, *_, **__: started.append(np.load(request.source)["y_train"]),
    )
    images = tiny_images(30)
    pixels, labels = images.images.permute(0, 2, 3, 1).numpy(), images.labels.numpy()
    other = (labels + 1) % 3
    jobs.run((pixels, labels), out=tmp_path / "run")
    jobs.run((pixels, labels), out=tmp_path / "run")
    for is_begun in (False, True):
        if is_begun:
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "run.yaml").write_text("")
            jobs.run((pixels, labels), out=tmp_path / "run")
        with pytest.raises(DataError, match=r"is there with another y_train: use another folder"):
            jobs.run((pixels, other), out=tmp_path / "run")
    assert len(started) == 3 and all((each == started[0]).all() for each in started)


def test_a_data_set_that_draws_its_images_is_the_same_one(tmp_path: Path) -> None:
    from onceforall.data.sources.write_npz import check_own, write_own

    class Drawn(Pictures):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:  # type: ignore[override]
            return torch.rand(3, *self.images.images.shape[2:]), super().__getitem__(index)[1]

    path = tmp_path / "own.npz"
    write_own(Drawn(30), path)
    check_own(Drawn(30), path, is_begun=False)
    with pytest.raises(DataError, match="is there with another x_train"):
        check_own(Drawn(60), path, is_begun=False)
    path.write_bytes(path.read_bytes()[:-100])
    for damaged in (path.read_bytes(), b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is there and holds something else"):
            check_own(Drawn(30), path, is_begun=False)


def test_class_names_that_are_too_few_are_not_written(tmp_path: Path) -> None:
    from onceforall.data.sources.write_npz import write_own

    class Few(Pictures):
        classes = ("red", "green")

    with pytest.raises(DataError, match="there are 2 class_names"):
        write_own(Few(30), tmp_path / "own.npz")
    assert not (tmp_path / "own.npz").exists()


def test_batches_of_one_image_are_shipped(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    net = tiny_net()
    arch = SPEC.space.smallest
    model = ofa.specialize(net, arch, calibration=[torch.randn(8, 3, 8, 8)])
    images = torch.randn(5, 3, 8, 8).split(1)
    ofa.ship(
        model,
        tmp_path / "one",
        arch=arch,
        test=[(image, torch.tensor([0])) for image in images],
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    assert verify_folder(tmp_path / "one")["onnx_relative_error"] <= 1e-4


def test_own_table_train_search_specialise_ship_and_load(tmp_path: Path) -> None:
    net = ofa.elastic(SPEC, seed=0)
    plan = sandwich_plan(
        epochs=10, learning_rate=0.1, reference_batch=16, subnets_per_step=3, weight_decay=0.0
    )
    images = write_images(tmp_path / "images.npz")
    session = ofa.train(net, plan, images, folder=tmp_path / "checkpoints", batch_size=16)
    assert not net.training

    rows = ofa.Encoding(net.space)
    sampled = rows.sample(24, np.random.default_rng(0))
    top1 = np.array(
        [
            evaluate_arch(
                net, arch, calibration=session.calibration_batches, images=session.valid
            ).top1
            for arch in rows.to_archs(sampled)
        ]
    )
    predictor = AccuracyPredictor.fit(rows.features(sampled), top1, seed=0)
    macs = ofa.compile_costs(net.spec).macs(rows.from_archs([net.space.largest]))[0]
    found = ofa.search.best(net, predictor, limits={"macs": 0.8 * macs})
    assert found.costs["macs"] <= 0.8 * macs

    batches = list(session.calibration_batches(found.arch.resolution))
    model = ofa.specialize(net, found.arch, calibration=batches)
    card = ofa.ship(
        model,
        tmp_path / "net01",
        arch=found.arch,
        test=session.test.batches(found.arch.resolution),
        classes=("red", "green", "blue"),
        data=session.bundle,
    )
    bundle = ofa.open_dataset(str(images))
    assert (card.mean, card.std, card.data) == (bundle.mean, bundle.std, bundle.name)
    assert card.top1 > 0.9 and card.macs == found.costs["macs"]
    assert verify_folder(tmp_path / "net01")
    with pytest.raises(ConfigError, match="holds a model already"):
        ofa.ship(model, tmp_path / "net01", arch=found.arch, test=[])

    loaded = ofa.load_model(tmp_path / "net01")
    assert loaded.card == card
    hits = 0
    for index in range(12):
        pixels = tiny_images(12, seed=5).images[index].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "image.png")
        ((name, probability),) = loaded.classify(tmp_path / "image.png")
        assert 0 <= probability <= 1
        hits += name == ("red", "green", "blue")[index % 3]
    assert hits >= 10
    (tmp_path / "net01" / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(VerificationError, match="was changed"):
        ofa.load_model(tmp_path / "net01")
