import gc
import math
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from onceforall.data.batches.resident import ResidentEvalBatches
from onceforall.data.batches.sharding import Shard
from onceforall.data.batches.streaming import StreamedBatches, StreamedEvalBatches, _mean_colors
from onceforall.data.bundle import IMAGENET_MEAN, IMAGENET_STD
from onceforall.data.images.augmentation import NO_AUGMENTATION, PUBLISHED_PHOTOS, Augmentation
from onceforall.data.images.device_ops import normalize
from onceforall.data.sources.open import open_dataset
from onceforall.errors import ConfigError, DataError
from tests.data.pictures import noise

NORMAL = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


@pytest.fixture
def files(make_folder):
    """Twenty-four photographs of 100 x 120 pixels in two classes."""
    root = make_folder({"val/a": 12, "val/b": 12}, size=(100, 120), suffix=".jpg")
    return open_dataset(str(root)).test


def stream(files, *, batch_size=6, augmentation=PUBLISHED_PHOTOS, seed=3, **options):
    return StreamedBatches(
        files, augmentation=augmentation, batch_size=batch_size, seed=seed, **NORMAL, **options
    )


def evaluation(files, *, batch_size=7, **options):
    return StreamedEvalBatches(files, batch_size=batch_size, **NORMAL, **options)


def batches_of(stream, epoch=0, *, start_step=0):
    return list(
        stream.iterate(epoch, start_step=start_step, resolution_of=lambda step: 32 + 8 * (step % 2))
    )


def assert_same(first, second):
    assert [step for step, _ in first] == [step for step, _ in second]
    for (_, (images, labels)), (_, (others, other_labels)) in zip(first, second, strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)


# Training


def test_batches_have_the_size_of_their_step(files):
    batches = batches_of(stream(files))
    assert [step for step, _ in batches] == [0, 1, 2, 3]
    assert [images.shape[2] for _, (images, _) in batches] == [32, 40, 32, 40]
    for _, (images, labels) in batches:
        assert images.shape[:2] == (6, 3) and images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.shape == (6,) and labels.dtype == torch.int64
    assert torch.cat([labels for _, (_, labels) in batches]).bincount().tolist() == [12, 12]


def test_seed_and_epoch_name_a_batch(files):
    first = batches_of(stream(files))
    assert_same(first, batches_of(stream(files)))
    for other in (batches_of(stream(files, seed=4)), batches_of(stream(files), 1)):
        assert not torch.equal(first[0][1][0], other[0][1][0])


def test_workers_and_restarts_change_nothing(files):
    augmentation = Augmentation(crop="resized", color="torch", cutout=0.3)
    expected = batches_of(stream(files, augmentation=augmentation), 1)
    with_workers = stream(files, augmentation=augmentation, num_workers=2)
    assert_same(batches_of(with_workers, 1), expected)
    assert_same(batches_of(with_workers, 1, start_step=2), expected[2:])
    # An iteration that is given up must leave the workers fit for the next.
    next(with_workers.iterate(0, resolution_of=lambda step: 24))
    assert_same(batches_of(with_workers, 1), expected)


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_policies_are_named_by_seed_and_epoch(files, policy):
    augmentation = Augmentation(crop="resized", policy=policy)
    first = batches_of(stream(files, augmentation=augmentation))
    assert_same(first, batches_of(stream(files, augmentation=augmentation)))
    plain = batches_of(stream(files, augmentation=Augmentation(crop="resized")))
    assert not torch.equal(first[0][1][0], plain[0][1][0])


def test_ranks_share_the_batch_of_one_rank(files):
    whole = batches_of(stream(files, batch_size=6))
    parts = [
        batches_of(stream(files, batch_size=2, shard=Shard(rank=rank, world_size=3)))
        for rank in range(3)
    ]
    for step, (_, (images, labels)) in enumerate(whole):
        shares = [part[step][1] for part in parts]
        assert torch.equal(images, torch.cat([share[0] for share in shares]))
        assert torch.equal(labels, torch.cat([share[1] for share in shares]))


def test_without_a_crop_the_evaluation_view_is_shown(files):
    shown = stream(files, augmentation=NO_AUGMENTATION, batch_size=24)
    ((_, (images, labels)),) = shown.iterate(0, resolution_of=lambda step: 64)
    ((centres, expected),) = evaluation(files, batch_size=24).batches(64)
    order = [int((centres - image).abs().flatten(1).mean(dim=1).argmin()) for image in images]
    assert sorted(order) == list(range(24)) and labels.tolist() == expected[order].tolist()
    # Another decoder path and whole pixels of the crop: close, not equal.
    assert float((images - centres[order]).abs().mean()) < 0.1


def test_training_images_look_like_the_published_ones(files):
    """Mean and deviation over many crops agree with the published transform."""
    shown = stream(files, batch_size=24)
    ours = torch.cat(
        [
            images
            for e in range(30)
            for _, (images, _) in shown.iterate(e, resolution_of=lambda _: 32)
        ]
    )
    published = transforms.Compose(
        [
            transforms.RandomResizedCrop(32, scale=(0.08, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=32 / 255, saturation=0.5),
            transforms.ToTensor(),
            transforms.Normalize(*NORMAL.values()),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        theirs = torch.stack(
            [published(Image.open(files.path(i))) for i in range(24) for _ in range(30)]
        )
    # 720 crops each; the deviation of an image's mean is about 0.5, so its error is 0.02.
    assert float((ours.mean(dim=(0, 2, 3)) - theirs.mean(dim=(0, 2, 3))).abs().max()) < 0.1
    assert float((ours.std(dim=(0, 2, 3)) - theirs.std(dim=(0, 2, 3))).abs().max()) < 0.06
    spread = ours.mean(dim=(2, 3)).std(dim=0) / theirs.mean(dim=(2, 3)).std(dim=0)
    assert float((spread - 1).abs().max()) < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augmentation": Augmentation(crop="pad")}, "crop pad needs resident data"),
        ({"batch_size": 0}, "batch_size 0 is not at least 1"),
        ({"num_workers": -1}, "num_workers -1 is not at least 0"),
        ({"crop_ratio": 0.0}, r"crop_ratio 0\.0 is not in \(0, 1\]"),
    ],
)
def test_refused_settings(files, change, message):
    with pytest.raises(ConfigError, match=message):
        stream(files, **change)


def test_every_second_image_is_mirrored(files):
    plain, mirrored = (
        stream(files, augmentation=Augmentation(crop="none", flip=flip), batch_size=24)
        for flip in (False, True)
    )
    flips = []
    for epoch in range(10):
        ((_, (images, _)),) = plain.iterate(epoch, resolution_of=lambda step: 16)
        ((_, (others, _)),) = mirrored.iterate(epoch, resolution_of=lambda step: 16)
        for image, other in zip(images, others, strict=True):
            same, turned = torch.equal(other, image), torch.equal(other, image.flip(2))
            assert same != turned
            flips.append(turned)
    # 120 of 240 expected; four standard deviations are 31.
    assert abs(sum(flips) - 120) < 31


def test_contrast_turns_about_the_mean_of_rgb():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 8, 8, 4), dtype=torch.uint8, generator=generator)
    pixels[..., 3] = 255
    expected = pixels[..., :3].double().mean(dim=(1, 2)).float()
    here = torch.device("cpu")
    for kind in (pixels, list(pixels)):
        torch.testing.assert_close(_mean_colors(kind, "torch", here), expected)
        assert torch.equal(_mean_colors(kind, "tf", here), torch.zeros(2, 3))


@pytest.mark.parametrize("kind", [stream, evaluation])
def test_workers_end_with_their_batches(files, kind):
    """No reference cycle: workers freed by the cycle collector would take seconds to end."""
    batches = kind(files, num_workers=1)
    run = batches_of if kind is stream else lambda batches: list(batches.batches(32))
    gc.disable()
    try:
        run(batches)
        run(batches)
        (worker,) = batches._pool._loader._iterator._workers
        start = time.monotonic()
        del batches
        assert not worker.is_alive() and time.monotonic() - start < 4
    finally:
        gc.enable()


# Evaluation


def published_view(path, resolution):
    view = transforms.Compose(
        [transforms.Resize(math.ceil(resolution / 0.875)), transforms.CenterCrop(resolution)]
    )
    with Image.open(path) as image:
        return np.asarray(view(image.convert("RGB")))


@pytest.mark.parametrize("size", [(60, 90), (91, 64), (80, 80), (40, 33), (500, 375)])
@pytest.mark.parametrize("resolution", [32, 57])
def test_evaluation_is_bitwise_the_published_transform(tmp_path, size, resolution):
    for name in "ab":
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.fromarray(noise(7, *size)).save(tmp_path / "val" / name / "x.jpg")
    files = open_dataset(str(tmp_path), max_resident_bytes=0).test
    ((images, _),) = evaluation(files).batches(resolution)
    expected = torch.from_numpy(published_view(files.path(0), resolution).copy())
    expected = normalize(expected.permute(2, 0, 1)[None], **NORMAL)
    assert torch.equal(images[:1], expected)


def test_evaluation_is_the_published_transform_on_real_photographs(shared_data):
    files = open_dataset(str(shared_data / "imagenet_val1300"), max_resident_bytes=0).test
    part = files.subset(torch.arange(0, 1300, 50))
    ((images, _),) = evaluation(part, batch_size=26).batches(176)
    for i, image in enumerate(images):
        expected = torch.from_numpy(published_view(part.path(i), 176).copy()).permute(2, 0, 1)
        assert torch.equal(image[None], normalize(expected[None], **NORMAL))


def test_photographs_in_memory_are_evaluated_as_published(shared_data, tmp_path):
    for folder in sorted((shared_data / "imagenet_val1300" / "val").iterdir())[:40]:
        (tmp_path / "val").mkdir(exist_ok=True)
        (tmp_path / "val" / folder.name).symlink_to(folder)
    listed = open_dataset(str(tmp_path), max_resident_bytes=0).test
    for resolution in (176, 192):
        bundle = open_dataset(str(tmp_path), image_size=resolution)
        resident = ResidentEvalBatches(
            bundle.test, batch_size=999, crop_ratio=bundle.eval_crop_ratio, **NORMAL
        )
        ((images, _),) = resident.batches(resolution)
        ((expected, _),) = evaluation(listed, batch_size=999).batches(resolution)
        assert torch.equal(images, expected)


def test_evaluation_keeps_order_and_the_last_part(files):
    batches = list(evaluation(files).batches(32))
    assert [len(labels) for _, labels in batches] == [7, 7, 7, 3]
    assert torch.equal(torch.cat([labels for _, labels in batches]), files.labels)
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)


def test_evaluation_with_workers_is_the_same(files):
    alone, helped = evaluation(files), evaluation(files, num_workers=2)
    for resolution in (32, 40, 32):
        pairs = zip(alone.batches(resolution), helped.batches(resolution), strict=True)
        assert all(torch.equal(a, b) and torch.equal(la, lb) for (a, la), (b, lb) in pairs)


def test_ranks_evaluate_each_image_once(files):
    labels = [
        torch.cat([y for _, y in evaluation(files, shard=Shard(rank=r, world_size=5)).batches(16)])
        for r in range(5)
    ]
    assert [len(part) for part in labels] == [5, 5, 5, 5, 4]
    assert torch.cat(labels).bincount().tolist() == [12, 12]
    alone = evaluation(files.subset(torch.tensor([0])), shard=Shard(rank=1, world_size=2))
    assert list(alone.batches(16)) == []


def test_evaluation_cache_is_bounded(files):
    batches = evaluation(files, max_cache_bytes=2 * 24 * 3 * 16 * 16)
    first = [images for images, _ in batches.batches(16)]
    list(batches.batches(15))
    assert sorted(batches._cache) == [15, 16]
    list(batches.batches(17))  # too large with another one
    assert sorted(batches._cache) == [17]
    list(batches.batches(64))  # too large at all
    assert sorted(batches._cache) == [17]
    assert all(torch.equal(a, b) for a, (b, _) in zip(first, batches.batches(16), strict=True))


def test_a_pass_given_up_is_not_cached(files):
    batches = evaluation(files)
    next(batches.batches(16))
    assert not batches._cache
    assert sum(len(labels) for _, labels in batches.batches(16)) == 24


def test_calibration_images_are_the_evaluation_images(files):
    batches = evaluation(files)
    pairs = zip(batches.calibration_batches(16), batches.batches(16), strict=True)
    assert all(torch.equal(images, expected) for images, (expected, _) in pairs)


# Damage


@pytest.fixture
def damaged(files):
    for name in ("val/a/003.jpg", "val/a/004.jpg", "val/b/011.jpg"):
        path = files.root / name
        path.write_bytes(path.read_bytes()[:300])
    return files


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_file_is_named(damaged, num_workers):
    with pytest.raises(DataError, match=r"00[34]\.jpg|011\.jpg") as caught:
        batches_of(stream(damaged, num_workers=num_workers))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"a/003\.jpg: cannot be read as an image"):
        list(evaluation(damaged, num_workers=num_workers).batches(32))


def test_damaged_file_is_replaced_by_the_next_good_one(damaged):
    lines = []
    skipping = stream(
        damaged, augmentation=NO_AUGMENTATION, on_bad_image="skip", report=lines.append
    )
    batches = batches_of(skipping)
    # 3 and 4 become 5, the last one becomes the first.
    assert torch.cat([labels for _, (_, labels) in batches]).bincount().tolist() == [13, 11]
    assert len(lines) == 4 and sum("004.jpg" in line for line in lines) == 2
    assert_same(
        batches,
        batches_of(
            stream(damaged, augmentation=NO_AUGMENTATION, on_bad_image="skip", num_workers=1)
        ),
    )


def test_damaged_file_is_left_out_of_an_evaluation(damaged):
    lines = []
    skipping = evaluation(damaged, on_bad_image="skip", report=lines.append, batch_size=1)
    batches = list(skipping.batches(32))
    assert torch.cat([labels for _, labels in batches]).bincount().tolist() == [10, 11]
    assert len(lines) == 3
    assert [len(y) for _, y in batches] == [1] * 21  # no empty batches
    assert [len(y) for _, y in skipping.batches(32)] == [1] * 21


def test_nothing_but_damage_ends(files):
    for i in range(len(files)):
        (files.root / files.names[i]).write_bytes(b"x")
    with pytest.raises(DataError, match="damaged files in a row"):
        batches_of(stream(files, on_bad_image="skip"))


def test_missing_file_is_named(files):
    (files.root / "val/a/000.jpg").unlink()
    with pytest.raises(DataError, match=r"000\.jpg: no such file"):
        list(evaluation(files).batches(16))


class _Killer:
    """A file list whose image 5 ends the process that reads it."""

    def __init__(self, files):
        self._files = files
        self.root, self.names, self.labels = files.root, files.names, files.labels

    def __len__(self):
        return len(self._files)

    def path(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._files.path(index)


def test_dead_worker_is_one_line_and_no_hang(files):
    with pytest.raises(DataError, match="a data worker process died") as caught:
        list(evaluation(_Killer(files), num_workers=1).batches(16))
    assert "\n" not in str(caught.value)
