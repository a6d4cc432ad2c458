"""One pool of processes reads for all parts of a data set, in any order of asking."""

import multiprocessing

import pytest
import torch

from onceforall.data.batches.loaders import LoaderSettings, open_loaders
from onceforall.data.batches.reading_pool import ReadingPool
from onceforall.data.batches.streaming import StreamedBatches, StreamedEvalBatches
from onceforall.data.bundle import IMAGENET_MEAN, IMAGENET_STD
from onceforall.data.images.augmentation import PUBLISHED_PHOTOS
from onceforall.data.sources.open import open_dataset
from onceforall.data.splits import split_train
from onceforall.errors import ConfigError

NORMAL = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
CPU = torch.device("cpu")


@pytest.fixture
def root(make_folder):
    return str(make_folder({"train/a": 14, "train/b": 14, "val/a": 4, "val/b": 4}, size=(40, 50)))


def loaders_of(root, num_workers):
    bundle = open_dataset(root, max_resident_bytes=0)
    splits = split_train(bundle.train.labels, num_valid=6, num_calibration=8, seed=0)
    settings = LoaderSettings(
        batch_size=4,
        eval_batch_size=3,
        seed=0,
        augmentation=PUBLISHED_PHOTOS,
        num_workers=num_workers,
        max_cache_bytes=0,
    )
    return open_loaders(bundle, settings, splits)


def everything(loaders):
    """What a run asks for, one part after the other, twice."""
    found = []
    for epoch in range(2):
        found += [images for _, (images, _) in loaders.train.iterate(epoch, resolution_of=side)]
        found += list(loaders.calibration.calibration_batches(24))
        found += [images for images, _ in loaders.valid.batches(24)]
        found += [images for images, _ in loaders.test.batches(16)]
    return found


def side(step):
    return (16, 24)[step % 2]


def test_all_parts_share_the_processes_of_a_rank(root):
    before = set(multiprocessing.active_children())
    loaders = loaders_of(root, 1)
    assert set(multiprocessing.active_children()) == before  # they start when there is work
    helped = everything(loaders)
    assert len(set(multiprocessing.active_children()) - before) == 1
    alone = everything(loaders_of(root, 0))
    assert len(alone) == len(helped) == 2 * (5 + 3 + 2 + 3)
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_readings_may_take_turns(root, num_workers):
    """Whoever asks next gets the next batch of what it asked for."""
    loaders, plain = loaders_of(root, num_workers), loaders_of(root, 0)
    steps = loaders.train.iterate(0, resolution_of=side)
    tests, again = loaders.test.batches(16), loaders.test.batches(16)
    found = [next(steps)[1][0], next(tests)[0], next(again)[0], next(steps)[1][0]]
    found += [next(tests)[0], next(steps)[1][0], next(again)[0]]
    whole = [images for _, (images, _) in plain.train.iterate(0, resolution_of=side)]
    shown = [images for images, _ in plain.test.batches(16)]
    expected = [whole[0], shown[0], shown[0], whole[1], shown[1], whole[2], shown[1]]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [step for step, _ in steps] == [3, 4]
    assert len(list(tests)) == len(list(again)) == 1


def test_a_part_may_join_while_another_is_read(root):
    files = open_dataset(root, max_resident_bytes=0).test
    pool = ReadingPool(1, CPU)
    first = StreamedEvalBatches(files, batch_size=3, pool=pool, **NORMAL)
    reading = first.batches(16)
    start = next(reading)
    second = StreamedBatches(
        files, augmentation=PUBLISHED_PHOTOS, batch_size=4, seed=0, pool=pool, **NORMAL
    )
    assert len(list(second.iterate(0, resolution_of=side))) == 2
    labels = torch.cat([start[1], *(labels for _, labels in reading)])
    assert torch.equal(labels, files.labels)


def test_a_pool_of_fewer_than_no_processes_is_refused():
    with pytest.raises(ConfigError, match="num_workers -1 is not at least 0"):
        ReadingPool(-1, CPU)
