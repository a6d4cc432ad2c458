from pathlib import Path

import numpy as np
import pytest
import torch

from onceforall.data.bundle import ImageArrays, PackedNames, channel_moments
from onceforall.data.sources.arrays import bundle_from_arrays
from onceforall.data.sources.builtin import default_root, open_builtin
from onceforall.data.sources.open import open_dataset
from onceforall.errors import ConfigError, DataError


def arrays(num_train=20, num_test=8, size=6, num_classes=4):
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (num_train, size, size, 3), dtype=np.uint8),
        "y_train": np.arange(num_train) % num_classes,
        "x_test": rng.integers(0, 256, (num_test, size, size, 3), dtype=np.uint8),
        "y_test": np.arange(num_test) % num_classes,
    }


def save(path, **change):
    values = {**arrays(), **change}
    np.savez(path, **{key: value for key, value in values.items() if value is not None})
    return str(path)


# Names


def test_digits_are_whole_stratified_and_always_split_alike():
    pytest.importorskip("sklearn")
    first, second = open_dataset("digits"), open_dataset("digits")
    assert (first.num_train, first.num_test, first.num_classes) == (1438, 359, 10)
    assert first.train.images.shape == (1438, 3, 8, 8)
    assert int(first.train.images.max()) == 255
    assert not first.flip and first.is_resident and first.eval_crop_ratio == 1.0
    counts = first.test.labels.bincount()
    assert int(counts.min()) >= 34 and int(counts.max()) <= 38
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.test.images, second.test.images)


def test_unknown_name_gives_the_nearest_and_the_known():
    with pytest.raises(ConfigError, match="did you mean cifar10") as caught:
        open_dataset("cifra10")
    assert "fashion_mnist" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["/nowhere/at/all", "missing.npz", ""])
def test_missing_path_is_one_line(spec):
    with pytest.raises(ConfigError, match=r"no such folder or \.npz file") as caught:
        open_dataset(spec)
    assert "\n" not in str(caught.value)


def test_other_file_is_refused(tmp_path):
    path = tmp_path / "images.zip"
    path.write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"neither a folder nor an \.npz"):
        open_dataset(str(path))


def test_failed_download_says_where_to_put_the_file(tmp_path, monkeypatch):
    from torchvision import datasets

    def offline(*args, **kwargs):
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(datasets, "CIFAR10", offline)
    with pytest.raises(ConfigError, match=r"cifar-10-python\.tar\.gz") as caught:
        open_dataset("cifar10", root=tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_downloaded_set_becomes_arrays(tmp_path, monkeypatch):
    from torchvision import datasets

    class Fake:
        classes = ("a", "b")

        def __init__(self, root, *, train, download):
            assert root == str(tmp_path) and download
            self.data = torch.full((4, 28, 28), 7 if train else 9, dtype=torch.uint8)
            self.targets = torch.tensor([0, 1, 0, 1])

    monkeypatch.setattr(datasets, "FashionMNIST", Fake)
    bundle = open_builtin("fashion_mnist", root=tmp_path)
    assert bundle.train.images.shape == (4, 3, 28, 28)
    assert int(bundle.train.images[0, 0, 0, 0]) == 7 and int(bundle.test.images.max()) == 9
    assert bundle.class_names == ("a", "b")


# .npz


def test_npz_keeps_pixels_and_labels(tmp_path):
    source = arrays()
    bundle = open_dataset(save(tmp_path / "a.npz"))
    assert torch.equal(bundle.train.images, torch.from_numpy(source["x_train"]).permute(0, 3, 1, 2))
    assert bundle.test.labels.tolist() == source["y_test"].tolist()
    assert bundle.class_names == ("0", "1", "2", "3")
    scaled = source["x_train"].reshape(-1, 3) / 255
    assert bundle.mean == pytest.approx(scaled.mean(axis=0), abs=1e-12)
    assert bundle.std == pytest.approx(scaled.std(axis=0), abs=1e-12)


@pytest.mark.parametrize("ending", [(), (1,)])
def test_npz_greyscale_and_column_labels(tmp_path, ending):
    grey = np.arange(20 * 36, dtype=np.uint8).reshape(20, 6, 6, *ending)
    labels = (np.arange(20) % 4).reshape(20, *ending).astype(np.uint8)
    path = save(tmp_path / "g.npz", x_train=grey, y_train=labels)
    bundle = open_dataset(path)
    assert bundle.train.images.shape == (20, 3, 6, 6)
    assert (bundle.train.images[:, 0] == bundle.train.images[:, 2]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_test": None}, "no array y_test; it has x_train, y_train, x_test"),
        ({"x_train": np.zeros((20, 6, 6, 3), np.float32)}, "x_train is float32, not uint8"),
        ({"x_train": np.zeros((20, 6, 6, 4), np.uint8)}, r"x_train has shape \(20, 6, 6, 4\)"),
        ({"x_train": np.zeros((0, 6, 6, 3), np.uint8)}, r"x_train has shape \(0, 6, 6, 3\)"),
        ({"y_train": np.zeros(20)}, "y_train is float64, not an integer type"),
        ({"y_train": np.zeros(19, np.int64)}, r"y_train has shape \(19,\) for 20 images"),
        ({"y_train": np.arange(20) - 1}, "y_train: label -1 is not from 0 to 1000000"),
        ({"y_train": np.zeros(20, np.int64)}, "y_train has 1 class"),
        ({"y_train": np.arange(20) % 4 + 1}, "y_train: class 0 has no images"),
        ({"y_test": np.full(8, 4)}, "y_test: class 4 is not in y_train"),
        ({"x_test": np.zeros((8, 5, 6, 3), np.uint8)}, "x_test images are 5 x 6 but .* 6 x 6"),
        ({"x_train": np.array([{}] * 20)}, "x_train: holds Python objects, which are not read"),
    ],
)
def test_npz_errors_name_the_file_and_the_array(tmp_path, change, message):
    path = save(tmp_path / "bad.npz", **change)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(path)
    assert str(caught.value).startswith(path) and "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 10, 3000])
def test_damaged_npz(tmp_path, cut):
    path = tmp_path / "cut.npz"
    save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        open_dataset(str(path))


def test_class_names_of_an_npz(tmp_path):
    bundle = open_dataset(save(tmp_path / "n.npz", class_names=np.array(list("abcde"))))
    assert bundle.class_names == ("a", "b", "c", "d", "e")


def test_fingerprint_sees_pixels_labels_and_names():
    base = arrays()
    prints = {bundle_from_arrays(base, name="a").fingerprint}
    for key in ("x_train", "x_test"):
        changed = {**base, key: base[key].copy()}
        changed[key][-1, -1, -1, -1] ^= 1
        prints.add(bundle_from_arrays(changed, name="a").fingerprint)
    moved = {**base, "y_train": np.roll(base["y_train"], 1)}
    prints.add(bundle_from_arrays(moved, name="a").fingerprint)
    prints.add(bundle_from_arrays(base, name="a", class_names=list("abcd")).fingerprint)
    assert len(prints) == 5
    assert bundle_from_arrays(arrays(), name="b").fingerprint in prints


# Values


def test_images_check_their_kind():
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(DataError, match="not uint8"):
        ImageArrays(images=torch.zeros(2, 3, 4, 4), labels=labels)
    with pytest.raises(DataError, match=r"not int64 \(2,\)"):
        ImageArrays(images=torch.zeros(2, 3, 4, 4, dtype=torch.uint8), labels=labels[:1])
    with pytest.raises(DataError, match="label -1 is negative"):
        ImageArrays(images=torch.zeros(2, 3, 4, 4, dtype=torch.uint8), labels=labels - 1)


def test_constant_channel_has_unit_deviation():
    images = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    assert channel_moments(images) == ((0.2, 0.2, 0.2), (1.0, 1.0, 1.0))


def test_packed_names_give_back_any_name():
    names = ["a/b.png", "", "gr\u00fc\u00dfe/\udce9.jpg", "z"]
    packed = PackedNames(names)
    assert [packed[i] for i in range(len(packed))] == names
    with pytest.raises(IndexError):
        packed[4]
    with pytest.raises(IndexError):
        packed[-1]


def test_cifar10_npz(shared_data, tmp_path):
    import subprocess
    import sys

    script = shared_data / "cifar10" / "to_npz.py"
    path = tmp_path / "cifar10.npz"
    subprocess.run([sys.executable, str(script), str(path)], check=True)
    bundle = open_dataset(str(path))
    assert (bundle.num_train, bundle.num_test, bundle.num_classes) == (50000, 10000, 10)
    assert bundle.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4)
    assert bundle.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)
    assert bundle.train.labels.bincount().tolist() == [5000] * 10


def test_downloads_follow_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("ONCEFORALL_HOME", raising=False)
    assert default_root() == tmp_path / "xdg" / "onceforall" / "data"
    monkeypatch.setenv("ONCEFORALL_HOME", str(tmp_path / "own"))
    assert default_root() == tmp_path / "own" / "data"
