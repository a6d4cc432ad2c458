import pytest
import torch

from onceforall.data.batches.loaders import LoaderSettings, default_augmentation, open_loaders
from onceforall.data.batches.resident import ResidentBatches
from onceforall.data.batches.sharding import Shard
from onceforall.data.batches.streaming import StreamedBatches
from onceforall.data.images.augmentation import PUBLISHED_PHOTOS, SMALL_IMAGES, Augmentation
from onceforall.data.sources.open import open_dataset
from onceforall.data.splits import split_train
from onceforall.errors import ConfigError


@pytest.fixture
def root(make_folder):
    return str(make_folder({"train/a": 20, "train/b": 20, "val/a": 3, "val/b": 4}))


def settings(**change):
    values = {
        "batch_size": 4,
        "eval_batch_size": 5,
        "seed": 0,
        "augmentation": Augmentation(crop="none"),
        **change,
    }
    return LoaderSettings(**values)


def splits_of(bundle, num_valid=8, num_calibration=12):
    return split_train(
        bundle.train.labels, num_valid=num_valid, num_calibration=num_calibration, seed=0
    )


def labels_of(batches):
    return torch.cat([labels for _, labels in batches.batches(16)])


@pytest.mark.parametrize("max_resident_bytes", [10**9, 0])
def test_parts_are_what_the_splits_say(root, max_resident_bytes):
    bundle = open_dataset(root, max_resident_bytes=max_resident_bytes)
    splits = splits_of(bundle)
    loaders = open_loaders(bundle, settings(), splits)
    kind = ResidentBatches if max_resident_bytes else StreamedBatches
    assert isinstance(loaders.train, kind)
    assert loaders.train.num_images == 32 and loaders.train.steps_per_epoch == 8
    assert torch.equal(labels_of(loaders.valid), bundle.train.labels[splits.valid])
    assert torch.equal(labels_of(loaders.test), bundle.test.labels)
    images = torch.cat(list(loaders.calibration.calibration_batches(16)))
    assert images.shape == (12, 3, 16, 16)
    # The same pixels by both ways.
    expected = open_loaders(bundle, settings(batch_size=12), splits).calibration
    assert torch.equal(images, torch.cat(list(expected.calibration_batches(16))))


def test_streamed_and_resident_parts_agree(root):
    resident, streamed = (open_dataset(root, max_resident_bytes=size) for size in (10**9, 0))
    assert not streamed.is_resident and resident.fingerprint == streamed.fingerprint
    assert resident.mean == streamed.mean and resident.std == streamed.std
    first, second = (
        open_loaders(bundle, settings(crop_ratio=1.0), splits_of(bundle))
        for bundle in (resident, streamed)
    )
    for (a, la), (b, lb) in zip(first.test.batches(24), second.test.batches(24), strict=True):
        assert torch.equal(a, b) and torch.equal(la, lb)


def test_without_a_holdout_test_images_validate(root):
    bundle = open_dataset(root)
    loaders = open_loaders(bundle, settings(), splits_of(bundle, 0, 0))
    assert loaders.valid is loaders.test and loaders.calibration is None
    assert loaders.train.num_images == 40


def test_validation_images_of_the_data_set_are_used(make_folder):
    root = make_folder({f"{s}/{c}": 4 for s in ("train", "val", "test") for c in "ab"})
    bundle = open_dataset(str(root))
    loaders = open_loaders(bundle, settings(), splits_of(bundle, 0, 0))
    assert loaders.valid is not loaders.test and len(labels_of(loaders.valid)) == 8


def test_only_evaluation(make_folder):
    bundle = open_dataset(str(make_folder({"val/a": 2, "val/b": 2})))
    loaders = open_loaders(bundle, settings(), None)
    assert loaders.train is None and loaders.calibration is None
    assert loaders.valid is loaders.test


def test_splits_are_needed_where_there_is_training(root):
    with pytest.raises(ConfigError, match="no splits given"):
        open_loaders(open_dataset(root), settings(), None)


def test_shards_apply_to_their_part(root):
    bundle = open_dataset(root)
    loaders = open_loaders(
        bundle,
        settings(),
        splits_of(bundle),
        shard=Shard(rank=0, world_size=2),
        eval_shard=Shard(rank=1, world_size=4),
    )
    assert loaders.train.steps_per_epoch == 4
    assert len(labels_of(loaders.test)) == 2
    assert sum(len(images) for images in loaders.calibration.calibration_batches(16)) == 12


def test_augmented_calibration_varies_images_but_not_calls(root):
    bundle = open_dataset(root)
    augmented = settings(augmentation=SMALL_IMAGES, augment_calibration=True)
    first = open_loaders(bundle, augmented, splits_of(bundle)).calibration
    once, twice = (torch.cat(list(first.calibration_batches(16))) for _ in range(2))
    assert torch.equal(once, twice) and once.shape == (10, 3, 16, 16)
    plain = open_loaders(bundle, settings(), splits_of(bundle)).calibration
    rows = torch.cat(list(plain.calibration_batches(16))).flatten(1)
    assert not (once.flatten(1)[:, None] == rows[None]).all(dim=2).any(dim=1).all()


def test_default_augmentation(root, make_folder):
    assert default_augmentation(open_dataset(root)) == SMALL_IMAGES
    photos = make_folder({"a": 3, "b": 3}, name="photos", size=(120, 130), suffix=".jpg")
    for size in (None, 64):
        assert default_augmentation(open_dataset(str(photos), image_size=size)) == PUBLISHED_PHOTOS


def test_digits_are_not_mirrored():
    pytest.importorskip("sklearn")
    assert not default_augmentation(open_dataset("digits")).flip
