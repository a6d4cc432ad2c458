import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from onceforall.data.bundle import IMAGENET_MEAN, ImageArrays, ImageFiles
from onceforall.data.images.decode import decode_rgb
from onceforall.data.sources.open import open_dataset
from onceforall.errors import DataError
from tests.data.pictures import noise


def open_(root, **options):
    return open_dataset(str(root), **options)


# Layouts


def test_plain_folder_is_split_alike_every_time(make_folder):
    root = make_folder({"cat": 10, "dog": 5, "eel": 2})
    first, second = open_(root), open_(root)
    assert first.class_names == ("cat", "dog", "eel")
    assert (first.num_train, first.num_test) == (14, 3)
    assert first.train.labels.unique().tolist() == [0, 1, 2]
    assert first.test.labels.tolist() == [0, 0, 1]
    assert torch.equal(first.test.images, second.test.images)
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_train_and_val(make_folder, name):
    bundle = open_(make_folder({"train/a": 3, "train/b": 3, f"{name}/a": 1, f"{name}/b": 2}))
    assert (bundle.num_train, bundle.num_test, bundle.valid) == (6, 3, None)
    assert bundle.test.labels.tolist() == [0, 1, 1]


def test_train_val_and_test(make_folder):
    layout = {f"{s}/{c}": n for s, n in (("train", 3), ("val", 2), ("test", 1)) for c in "ab"}
    bundle = open_(make_folder(layout))
    assert (bundle.num_train, len(bundle.valid), bundle.num_test) == (6, 4, 2)


def test_train_only_is_split(make_folder):
    bundle = open_(make_folder({"train/a": 5, "train/b": 5}))
    assert (bundle.num_train, bundle.num_test) == (8, 2)


def test_val_only_is_for_evaluation(make_folder):
    bundle = open_(make_folder({"val/a": 2, "val/b": 1}))
    assert bundle.train is None and bundle.num_train == 0 and bundle.num_test == 3
    assert bundle.mean == IMAGENET_MEAN


def test_class_called_train_is_a_class(make_folder):
    bundle = open_(make_folder({"car": 4, "train": 4}))
    assert bundle.class_names == ("car", "train")


def test_unlabelled_test_folder_is_no_split(make_folder):
    root = make_folder({"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1, "test": 2})
    bundle = open_(root)
    assert bundle.num_test == 2 and bundle.valid is None
    assert bundle.notes == ("folder test is ignored",)


def test_hidden_and_other_files_do_not_count(make_folder):
    root = make_folder({"a": 4, "b": 4, ".cache": 2, "b/.thumbs": 1})
    (root / "a" / ".hidden.png").write_bytes(b"x")
    (root / "a" / "notes.txt").write_text("x")
    bundle = open_(root)
    assert bundle.num_train + bundle.num_test == 8
    assert bundle.notes == ("1 files are no images and are ignored (first: a/notes.txt)",)


def test_nested_and_linked_folders_count_once(make_folder):
    root = make_folder({"a/x": 2, "a/y": 2, "b": 4})
    (root / "a" / "loop").symlink_to(root / "a")
    (root / "c").symlink_to(root / "b")
    bundle = open_(root)
    assert bundle.class_names == ("a", "b", "c")
    assert bundle.num_train + bundle.num_test == 12


# classes.txt


def test_classes_file_fixes_indices(make_folder):
    root = make_folder({"val/b": 2, "val/d": 1})
    (root / "classes.txt").write_text("a apple, red\nb\nc\tsea otter\nd date\n\n")
    bundle = open_(root)
    assert bundle.class_names == ("a", "b", "c", "d")
    assert bundle.class_titles == ("apple, red", "b", "sea otter", "date")
    assert bundle.test.labels.tolist() == [1, 1, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\nb\na\n", "class a is listed twice"),
        (b"a\n", "class folder b is not listed in classes.txt"),
        (b"\n", "no classes in it"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_bad_classes_file(make_folder, text, message):
    root = make_folder({"a": 2, "b": 2})
    (root / "classes.txt").write_bytes(text)
    with pytest.raises(DataError, match=message):
        open_(root)


def test_empty_class_is_allowed_when_listed(make_folder):
    root = make_folder({"a": 3, "b": 3, "c": 0})
    with pytest.raises(DataError, match="class folder c has no images"):
        open_(root)
    (root / "classes.txt").write_text("a\nb\nc\n")
    assert open_(root).num_classes == 3


# Refusals


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"a": 3}, "1 class is not enough"),
        ({"a": 1, "b": 1}, "2 images of 2 classes are too few to split"),
        ({"train/a": 2, "train/b": 2, "val/a": 1, "val/c": 1}, "class c is in test but not in"),
        ({"val/a": 1, "valid/a": 1}, "both val and valid"),
        ({".": 3}, "no class folders in it"),
        ({"a": 0, "b": 0}, r"class folder a has no images \(2 such\)"),
    ],
)
def test_refused_layouts(make_folder, layout, message):
    root = make_folder(layout)
    with pytest.raises(DataError, match=message) as caught:
        open_(root)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_unreadable_image_is_named_or_skipped(make_folder, damage):
    root = make_folder({"a": 5, "b": 5})
    victim = root / "a" / "002.png"
    data = victim.read_bytes()
    victim.write_bytes({"empty": b"", "text": b"hello", "cut": data[: len(data) // 2]}[damage])
    with pytest.raises(DataError, match=r"a/002\.png: cannot be read as an image") as caught:
        open_(root)
    assert "\n" not in str(caught.value)
    bundle = open_(root, on_bad_image="skip")
    assert bundle.num_train + bundle.num_test == 9
    assert bundle.skipped == ("a/002.png",)


def test_class_of_bad_images_only(make_folder):
    root = make_folder({"train/a": 2, "train/b": 1, "val/a": 1})
    (root / "train" / "b" / "000.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="class 1 has no readable images"):
        open_(root, on_bad_image="skip")


# Memory or files


def test_photographs_stay_files_unless_a_size_is_given(make_folder):
    root = make_folder({"a": 4, "b": 4}, size=(120, 160), suffix=".jpg")
    listed = open_(root)
    assert isinstance(listed.train, ImageFiles) and not listed.is_resident
    decoded = open_(root, image_size=64)
    assert isinstance(decoded.train, ImageArrays)
    assert decoded.train.images.shape[2:] == (74, 74)  # ceil(64 / 0.875)
    assert decoded.eval_crop_ratio == 0.875
    assert decoded.fingerprint == listed.fingerprint
    tight = open_(root, image_size=64, max_resident_bytes=8 * 3 * 74 * 74 - 1)
    assert isinstance(tight.train, ImageFiles)
    pixels = np.stack(
        [np.asarray(decode_rgb(tight.train.path(i))) for i in range(len(tight.train))]
    )
    assert tight.mean == pytest.approx((pixels / 255).mean(axis=(0, 1, 2)), abs=1e-12)
    assert tight.std == pytest.approx((pixels / 255).std(axis=(0, 1, 2)), abs=1e-12)
    assert decoded.test.labels.tolist() == tight.test.labels.tolist()


def test_small_images_keep_their_pixels(make_folder):
    root = make_folder({"train/a": 2, "train/b": 2, "val/b": 1})
    bundle = open_(root, image_size=16)
    with Image.open(root / "train/a/001.png") as image:
        expected = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    assert torch.equal(bundle.train.images[1], expected)
    assert bundle.eval_crop_ratio == 1.0


def test_fingerprint_sees_names_sizes_and_classes(make_folder):
    root = make_folder({"a": 4, "b": 4})
    prints = [open_(root).fingerprint]
    (root / "a" / "000.png").rename(root / "a" / "009.png")
    prints.append(open_(root).fingerprint)
    Image.fromarray(noise(5, 25, 24)).save(root / "a" / "009.png")
    prints.append(open_(root, image_size=24).fingerprint)
    (root / "b").rename(root / "c")
    prints.append(open_(root, image_size=24).fingerprint)
    assert len(set(prints)) == 4
    moved = root.rename(root.parent / "elsewhere")
    assert open_(moved, image_size=24).fingerprint == prints[-1]


# Kinds of images


@dataclasses.dataclass(frozen=True)
class Kind:
    image: Image.Image
    suffix: str
    expected: tuple[int, int, int]
    tolerance: int = 0


KINDS = {
    "grey": Kind(Image.new("L", (4, 4), 90), ".png", (90, 90, 90)),
    "bilevel": Kind(Image.new("1", (4, 4), 1), ".png", (255, 255, 255)),
    "grey 16": Kind(Image.new("I;16", (4, 4), 0x5A80), ".png", (0x5A, 0x5A, 0x5A)),
    "grey 32": Kind(Image.new("I", (4, 4), 200), ".tif", (200, 200, 200)),
    "clear": Kind(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), ".png", (255, 255, 255)),
    "half clear": Kind(Image.new("RGBA", (4, 4), (0, 0, 0, 51)), ".png", (204, 204, 204), 1),
    "grey alpha": Kind(Image.new("LA", (4, 4), (10, 255)), ".png", (10, 10, 10)),
    "palette": Kind(Image.new("RGB", (4, 4), (9, 8, 7)).quantize(4), ".gif", (9, 8, 7)),
    "cmyk": Kind(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), ".jpg", (255, 0, 0), 3),
    "ycc": Kind(Image.new("YCbCr", (4, 4), (100, 128, 128)), ".jpg", (100, 100, 100), 1),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_becomes_rgb(tmp_path, name):
    kind = KINDS[name]
    path = tmp_path / f"image{kind.suffix}"
    kind.image.save(path)
    image = decode_rgb(str(path))
    assert image.mode == "RGB" and image.size == (4, 4)
    assert image.getpixel((1, 2)) == pytest.approx(kind.expected, abs=kind.tolerance)


def test_palette_with_transparency_shows_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "p.png", transparency=0)
    decoded = decode_rgb(str(tmp_path / "p.png"))
    assert decoded.getpixel((0, 0)) == (200, 100, 50)
    assert decoded.getpixel((1, 1)) == (255, 255, 255)


def test_floating_point_image_is_refused(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match="floating-point images are not supported"):
        decode_rgb(str(tmp_path / "f.tif"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    from PIL import ImageOps

    image = Image.fromarray(noise(3, 16, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "o.png", exif=exif)
    with Image.open(tmp_path / "o.png") as stored:
        expected = ImageOps.exif_transpose(stored)
    assert decode_rgb(str(tmp_path / "o.png")).tobytes() == expected.tobytes()


@pytest.mark.parametrize("min_side", [200, 100, 99, 50, 30])
def test_reduced_decoding_keeps_enough(tmp_path, min_side):
    Image.fromarray(noise(3, 203, 410)).save(tmp_path / "a.jpg")
    whole, reduced = (decode_rgb(str(tmp_path / "a.jpg"), min_side=m) for m in (None, min_side))
    assert whole.size == (410, 203)
    factor = 203 / min(reduced.size)
    assert min(reduced.size) >= min_side and factor > 203 / min_side / 2 - 0.1
    again = np.asarray(whole.resize(reduced.size, Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(reduced) - again).mean() < 1.5


def test_real_photographs(shared_data):
    root = shared_data / "imagenet_val1300"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    bundle = open_(root)
    assert bundle.train is None and bundle.num_test == 1300 and bundle.num_classes == 1000
    assert len(bundle.test.labels.unique()) == 725
    position = [bundle.test.names[i] for i in range(1300)].index(
        "val/n12998815/ILSVRC2012_val_00033566.JPEG"
    )
    assert bundle.class_names[bundle.test.labels[position]] == "n12998815"
    assert bundle.class_titles[0] == "tench, Tinca tinca"
