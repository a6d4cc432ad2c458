import pytest
import torch

from onceforall.data.resolution import (
    continuous_resolutions,
    published_resolution,
)
from onceforall.data.splits import published_split, split_train
from onceforall.errors import ConfigError

LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 19 + [3])


def test_split_is_disjoint_whole_and_stratified():
    splits = split_train(LABELS, num_valid=20, num_calibration=10, seed=0)
    both = torch.cat([splits.train, splits.valid]).sort().values
    assert both.tolist() == list(range(100))
    assert LABELS[splits.valid].bincount(minlength=4).tolist() == [10, 6, 4, 0]
    assert LABELS[splits.calibration].bincount(minlength=4).tolist() in (
        [5, 3, 2, 0],
        [5, 3, 1, 1],
    )
    assert set(splits.calibration.tolist()) <= set(splits.train.tolist())


def test_split_depends_on_the_seed_alone():
    first, again, other = (
        split_train(LABELS, num_valid=20, num_calibration=10, seed=s).valid for s in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_every_class_keeps_a_training_image():
    splits = split_train(LABELS, num_valid=96, num_calibration=4, seed=0)
    assert LABELS[splits.train].tolist() == [0, 1, 2, 3]
    assert splits.calibration.tolist() == splits.train.tolist()
    with pytest.raises(ConfigError, match=r"97 images to hold out is not in 0 \.\. 96"):
        split_train(LABELS, num_valid=97, num_calibration=0, seed=0)


def test_absent_classes_do_not_matter():
    splits = split_train(LABELS * 7, num_valid=10, num_calibration=0, seed=0)
    assert len(splits.valid) == 10 and len(splits.calibration) == 0


@pytest.mark.parametrize(
    ("num_valid", "num_calibration", "message"),
    [
        (-1, 0, r"num_valid -1 is not in 0 \.\. 99"),
        (100, 0, r"num_valid 100 is not in 0 \.\. 99"),
        (10, 91, r"num_calibration 91 is not in 0 \.\. 90"),
    ],
)
def test_counts_out_of_range(num_valid, num_calibration, message):
    with pytest.raises(ConfigError, match=message):
        split_train(LABELS, num_valid=num_valid, num_calibration=num_calibration, seed=0)
    with pytest.raises(ConfigError, match=message):
        published_split(100, num_valid=num_valid, num_calibration=num_calibration)


def test_published_imagenet_split():
    splits = published_split(1_281_167, num_valid=10_000, num_calibration=2_000)
    assert splits.valid[:4].tolist() == [1023925, 462055, 496986, 493287]
    assert splits.train[:2].tolist() == [648491, 580023]
    assert splits.calibration[:4].tolist() == [925741, 825791, 779019, 1075681]
    assert (len(splits.valid), len(splits.train)) == (10_000, 1_271_167)
    assert not set(splits.calibration.tolist()) & set(splits.valid.tolist())
    assert len(splits.calibration.unique()) == 2_000


def test_published_resolutions():
    sizes = continuous_resolutions(128, 224)
    assert (sizes[0], sizes[1], sizes[-1], len(sizes)) == (128, 132, 224, 25)

    def drawn(candidates, epoch):
        return [published_resolution(candidates, epoch=epoch, step=s) for s in range(12)]

    assert drawn(sizes, 0) == [212, 204, 172, 188, 168, 148, 144, 160, 184, 160, 184, 128]
    assert drawn(sizes, 1) == [140, 204, 184, 156, 168, 184, 216, 136, 184, 128, 160, 148]
    four = (128, 160, 192, 224)
    assert drawn(four, 7) == [160, 224, 128, 192, 128, 128, 160, 192, 160, 160, 160, 160]


def test_continuous_resolutions_start_on_a_multiple():
    assert continuous_resolutions(130, 141) == (132, 136, 140)


def test_no_resolutions():
    with pytest.raises(ConfigError, match="resolutions is empty"):
        published_resolution((), epoch=0, step=0)
