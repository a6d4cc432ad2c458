import random

import pytest
import torch

from onceforall.data.images.mixing import Mixing, cutmix, mix, mixup
from onceforall.errors import ConfigError

IMAGES = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 10, 10).contiguous()
LABELS = torch.tensor([0, 1, 2, 2])


def targets_of(labels=LABELS):
    return torch.nn.functional.one_hot(labels, 3).float()


def test_mixup_is_a_weighted_mean_with_the_neighbour():
    images, targets = mixup(IMAGES, targets_of(), share=0.75, rng=random.Random(0))
    assert images[:, 0, 0, 0].tolist() == [0.75, 0.75, 1.75, 2.75]
    assert targets.tolist() == [[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75], [0, 0, 1]]


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_targets_follow_the_area(seed):
    rng = random.Random(seed)
    images, targets = cutmix(IMAGES, targets_of(), share=rng.random(), rng=rng)
    for i in range(3):
        foreign = float((images[i, 0] != IMAGES[i, 0]).float().mean())
        assert float(targets[i, LABELS[i]]) == pytest.approx(1 - foreign, abs=1e-6)
        assert float(targets[i].sum()) == pytest.approx(1)
        assert set(images[i].flatten().tolist()) <= {float(i), float((i - 1) % 4)}
    assert torch.equal(IMAGES[1], torch.ones(3, 10, 10))


def test_cutmix_box_is_one_rectangle():
    images, _ = cutmix(IMAGES, targets_of(), share=0.75, rng=random.Random(1))
    foreign = images[1, 0] != 1
    rows, columns = foreign.any(dim=1), foreign.any(dim=0)
    assert torch.equal(foreign, rows[:, None] & columns[None])
    assert 0 < int(foreign.sum()) <= 25


def test_mix_draws_one_kind_and_is_named_by_its_generator():
    mixing = Mixing(mixup_alpha=0.2, cutmix_alpha=1.0)
    kinds = set()
    for seed in range(12):
        images, targets = mix(IMAGES, LABELS, mixing, num_classes=3, rng=random.Random(seed))
        again, _ = mix(IMAGES, LABELS, mixing, num_classes=3, rng=random.Random(seed))
        assert torch.equal(images, again)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
        kinds.add(bool((images == images.round()).all()))
    assert kinds == {True, False}


def test_no_mixing_gives_one_hot_targets():
    images, targets = mix(IMAGES, LABELS, Mixing(), num_classes=3, rng=random.Random(0))
    assert images is IMAGES and torch.equal(targets, targets_of())


def test_refused_alpha():
    with pytest.raises(ConfigError, match="mixup_alpha -1 is not at least 0"):
        Mixing(mixup_alpha=-1)
