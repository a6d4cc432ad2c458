import pytest
import torch
from torch.nn import functional as F

from onceforall.data.batches.resident import ResidentBatches, ResidentEvalBatches, home_of
from onceforall.data.batches.sharding import Shard
from onceforall.data.bundle import ImageArrays
from onceforall.data.images.augmentation import NO_AUGMENTATION, Augmentation
from onceforall.data.images.boxes import CropBoxes, draw_boxes
from onceforall.data.images.device_ops import cutout_, normalize
from onceforall.data.images.resample import _fold, resample
from onceforall.errors import ConfigError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def images_of(count, height=12, width=12):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(
        0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator
    )
    return ImageArrays(images=pixels, labels=torch.arange(count) % 10)


def train_batches(arrays=None, *, augmentation=None, batch_size=8, **options):
    return ResidentBatches(
        arrays or images_of(50),
        augmentation=augmentation or Augmentation(cutout=0.25),
        mean=MEAN,
        std=STD,
        batch_size=batch_size,
        seed=options.pop("seed", 3),
        **options,
    )


def boxes_of(*rows, flip=None):
    values = torch.tensor(rows, dtype=torch.float32).unbind(dim=1)
    mirrored = torch.zeros(len(rows), dtype=torch.bool) if flip is None else torch.tensor(flip)
    return CropBoxes(
        top=values[0], left=values[1], height=values[2], width=values[3], flip=mirrored
    )


# Resampling


@pytest.mark.parametrize("resolution", [5, 8, 12, 19])
def test_whole_image_resizes_as_torch_does(resolution):
    images = images_of(3, 12, 9).images
    result = resample(images, boxes_of(*[(0, 0, 12, 9)] * 3), resolution=resolution)
    expected = F.interpolate(
        images.float(), (resolution, resolution), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_shifted_crop_equals_padding_and_slicing(mode):
    images = images_of(4).images.float()
    padded = F.pad(images, (3, 3, 3, 3), mode="constant" if mode == "zero" else "reflect")
    shifts = [(-3, -3), (0, 2), (3, -1), (1, 3)]
    boxes = boxes_of(*[(top, left, 12, 12) for top, left in shifts], flip=[True, False] * 2)
    result = resample(images, boxes, resolution=12, padding=3, padding_mode=mode)
    for i, (top, left) in enumerate(shifts):
        expected = padded[i, :, 3 + top : 15 + top, 3 + left : 15 + left]
        assert torch.equal(result[i], expected.flip(2) if i % 2 == 0 else expected)


@pytest.mark.parametrize(("size", "padding"), [(8, 3), (5, 4), (4, 1)])
def test_a_mirrored_border_is_the_indexed_sum_to_the_bit(size, padding):
    weights = torch.rand(3, 6, size + 2 * padding, generator=torch.Generator().manual_seed(0))
    index = torch.arange(-padding, size + padding).abs()
    index = torch.where(index >= size, 2 * (size - 1) - index, index)
    expected = torch.zeros(3, 6, size).index_add(2, index, weights)
    assert torch.equal(_fold(weights, size, padding, "reflect"), expected)


def test_box_of_its_own_size_is_a_plain_crop():
    images = images_of(2).images
    result = resample(images, boxes_of((2, 1, 6, 6), (6, 6, 6, 6)), resolution=6)
    assert torch.equal(result[0], images[0, :, 2:8, 1:7].float())
    assert torch.equal(result[1], images[1, :, 6:, 6:].float())


def test_resampling_ignores_autocast():
    images = images_of(2).images
    boxes = boxes_of((2, 1, 6, 6), (6, 6, 6, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = resample(images, boxes, resolution=5)
    assert torch.equal(result, resample(images, boxes, resolution=5))


def test_random_boxes_stay_inside_and_cover_the_range():
    augmentation = Augmentation(crop="resized")
    generator = torch.Generator().manual_seed(0)
    boxes = draw_boxes(4000, augmentation, size=(90, 120), generator=generator)
    assert bool((boxes.top >= 0).all()) and bool((boxes.top + boxes.height <= 90).all())
    assert bool((boxes.left >= 0).all()) and bool((boxes.left + boxes.width <= 120).all())
    area = boxes.height * boxes.width / (90 * 120)
    ratio = boxes.width / boxes.height
    assert 0.07 < float(area.min()) < 0.1 and 0.95 < float(area.max()) <= 1
    assert 0.7 < float(ratio.min()) < 0.8 and 1.25 < float(ratio.max()) < 1.4
    assert 0.47 < float(boxes.flip.float().mean()) < 0.53


def test_random_boxes_have_the_published_distribution():
    from torchvision.transforms import RandomResizedCrop

    generator = torch.Generator().manual_seed(0)
    boxes = draw_boxes(3000, Augmentation(crop="resized"), size=(60, 100), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.empty(3, 60, 100)
        params = [
            RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)
        ]
    expected = torch.tensor(params, dtype=torch.float32)
    for ours, theirs in zip(
        (boxes.top, boxes.left, boxes.height, boxes.width), expected.unbind(1), strict=True
    ):
        # Means of 3,000 draws with deviations below 25: three standard errors are below 2.
        assert float(ours.mean()) == pytest.approx(float(theirs.mean()), abs=2)
        assert float(ours.std()) == pytest.approx(float(theirs.std()), abs=1.5)


def test_very_wide_image_falls_back_to_the_centre():
    generator = torch.Generator().manual_seed(0)
    boxes = draw_boxes(
        4, Augmentation(crop="resized", min_scale=1.0), size=(10, 100), generator=generator
    )
    assert boxes.height.tolist() == [10] * 4 and boxes.width.tolist() == [13] * 4
    assert boxes.left.tolist() == [43.5] * 4 and boxes.top.tolist() == [0] * 4


# Operations


def test_normalize_is_exact_and_channels_last():
    images = images_of(2).images
    result = normalize(images, mean=MEAN, std=STD)
    expected = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_cutout_square():
    images = torch.ones(2, 3, 8, 8)
    cutout_(images, torch.tensor([[0.5, 0.5], [0.0, 1.0]]), side=0.5)
    assert (images[0, :, 2:6, 2:6] == 0).all() and int(images[0].sum()) == 3 * 48
    assert (images[1, :, :2, 6:] == 0).all() and int(images[1].sum()) == 3 * 60


# Training batches


def test_batch_is_a_pure_function_of_seed_epoch_and_step():
    first, second = train_batches(), train_batches()
    list(second.iterate(4, resolution_of=lambda step: 8))  # a different history
    images, labels = first.batch(2, 3, resolution=8)
    again, labels_again = second.batch(2, 3, resolution=8)
    assert torch.equal(images, again) and torch.equal(labels, labels_again)
    assert images.shape == (8, 3, 8, 8) and images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == (8,) and labels.dtype == torch.int64
    for other in (train_batches(seed=4).batch(2, 3, resolution=8), first.batch(3, 3, resolution=8)):
        assert not torch.equal(images, other[0])


def test_epoch_shows_each_image_once():
    batches = train_batches(augmentation=NO_AUGMENTATION)
    whole = normalize(images_of(50).images, mean=MEAN, std=STD)
    seen = []
    for _, (images, labels) in batches.iterate(0, resolution_of=lambda step: 12):
        for image, label in zip(images, labels, strict=True):
            (match,) = (whole == image).flatten(1).all(dim=1).nonzero()[:, 0].tolist()
            assert match % 10 == label
            seen.append(match)
    assert batches.steps_per_epoch == 6 and len(seen) == len(set(seen)) == 48


def test_iteration_can_start_anywhere():
    batches = train_batches()
    steps = list(batches.iterate(1, start_step=4, resolution_of=lambda step: 6 + step))
    assert [step for step, _ in steps] == [4, 5]
    assert [tuple(images.shape[2:]) for _, (images, _) in steps] == [(10, 10), (11, 11)]
    assert torch.equal(steps[0][1][0], batches.batch(1, 4, resolution=10)[0])


@pytest.mark.parametrize("resolution", [8, 12, 20])
@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_ranks_share_the_batch_of_one_rank(crop, resolution):
    augmentation = Augmentation(crop=crop, cutout=0.25)
    whole = train_batches(augmentation=augmentation, batch_size=12)
    parts = [
        train_batches(augmentation=augmentation, batch_size=4, shard=Shard(rank=rank, world_size=3))
        for rank in range(3)
    ]
    assert {part.steps_per_epoch for part in parts} == {whole.steps_per_epoch}
    for step in range(whole.steps_per_epoch):
        images, labels = whole.batch(1, step, resolution=resolution)
        shares = [part.batch(1, step, resolution=resolution) for part in parts]
        assert torch.equal(labels, torch.cat([share[1] for share in shares]))
        # The products may add in another order in a batch of another size.
        torch.testing.assert_close(
            images, torch.cat([share[0] for share in shares]), rtol=0, atol=1e-5
        )


def test_set_smaller_than_a_batch_is_repeated():
    batches = train_batches(images_of(5), augmentation=NO_AUGMENTATION, batch_size=8)
    assert batches.steps_per_epoch == 1
    _, labels = batches.batch(0, 0, resolution=12)
    assert labels[:5].sort().values.tolist() == [0, 1, 2, 3, 4]
    assert labels[5:].tolist() == labels[:3].tolist()


def test_flip_can_be_switched_off():
    arrays = ImageArrays(
        images=torch.arange(12, dtype=torch.uint8).expand(40, 3, 12, 12).contiguous(),
        labels=torch.zeros(40, dtype=torch.int64),
    )

    def mirrored(flip):
        augmentation = Augmentation(crop="none", flip=flip)
        batches = train_batches(arrays, augmentation=augmentation, batch_size=40)
        images, _ = batches.batch(0, 0, resolution=12)
        return int((images[:, 0, 0, 0] > images[:, 0, 0, -1]).sum())

    assert mirrored(False) == 0
    assert 8 < mirrored(True) < 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size 0 is not at least 1"),
        (
            {"augmentation": Augmentation(policy="randaugment")},
            "policy randaugment needs photographs",
        ),
    ],
)
def test_refused_training_settings(change, message):
    with pytest.raises(ConfigError, match=message):
        train_batches(**change)


def test_step_out_of_range():
    with pytest.raises(ConfigError, match=r"step 6 is not in 0 \.\. 5"):
        train_batches().batch(0, 6, resolution=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": "random"}, "crop 'random' is not one of none, pad, resized"),
        ({"padding": 0.6}, r"padding 0\.6 is not in 0\.0 \.\. 0\.5"),
        ({"cutout": -1.0}, r"cutout -1\.0 is not in"),
        ({"min_scale": 0.0}, r"min_scale 0\.0 is not in \(0, 1\]"),
    ],
)
def test_refused_augmentation(change, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation(**change)


# Where the images live


def test_images_live_on_a_gpu_if_they_fit_the_budget(monkeypatch):
    gpu, cpu = torch.device("cuda", 1), torch.device("cpu")
    assert home_of(100, gpu, max_device_bytes=100) == gpu
    assert home_of(101, gpu, max_device_bytes=100) == cpu
    assert home_of(101, cpu, max_device_bytes=100) == cpu
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (80, 99))
    assert [home_of(n, gpu) for n in (10, 11)] == [gpu, cpu]  # an eighth of what is free
    assert asked == [gpu, gpu]


def test_refused_shard():
    with pytest.raises(ConfigError, match=r"rank 2 is not in 0 \.\. 1"):
        Shard(rank=2, world_size=2)


# Evaluation batches


def eval_batches(arrays=None, **options):
    return ResidentEvalBatches(
        arrays or images_of(21),
        mean=MEAN,
        std=STD,
        batch_size=options.pop("batch_size", 8),
        **options,
    )


def test_evaluation_keeps_order_and_the_last_part():
    batches = list(eval_batches().batches(12))
    assert [len(labels) for _, labels in batches] == [8, 8, 5]
    images = torch.cat([images for images, _ in batches])
    assert torch.equal(images, normalize(images_of(21).images, mean=MEAN, std=STD))
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)


def test_evaluation_resizes_with_rounding():
    images = torch.cat([images for images, _ in eval_batches().batches(7)])
    resized = F.interpolate(images_of(21).images, (7, 7), mode="bilinear", antialias=True)
    difference = (images - normalize(resized, mean=MEAN, std=STD)).abs()
    assert float(difference.max()) < 1.1 / 255 / min(STD)  # at most one step of 8 bits


def test_evaluation_crops_the_centre():
    arrays = images_of(2, 16, 20)
    ((images, _),) = eval_batches(arrays, crop_ratio=0.5).batches(8)
    expected = normalize(arrays.images[:, :, 4:12, 6:14], mean=MEAN, std=STD)
    assert torch.equal(images, expected)


def test_ranks_evaluate_each_image_once():
    parts = [eval_batches(shard=Shard(rank=rank, world_size=4)) for rank in range(4)]
    labels = [torch.cat([labels for _, labels in part.batches(12)]) for part in parts]
    assert [len(part) for part in labels] == [6, 5, 5, 5]
    assert torch.cat(labels).sort().values.tolist() == images_of(21).labels.sort().values.tolist()
    assert all(part.num_images == 21 for part in parts)


def test_more_ranks_than_images():
    last = eval_batches(images_of(2), shard=Shard(rank=2, world_size=3))
    assert list(last.batches(12)) == [] and list(last.batches(9)) == []


def test_cache_is_bounded_and_invisible():
    batches = eval_batches(max_cache_bytes=2 * 21 * 3 * 81)
    first = {r: list(batches.batches(r)) for r in (7, 8, 9)}
    assert list(batches._cache) == [8, 9]  # 7, 8 and 9 do not fit together
    for resolution, expected in first.items():
        for (a, _), (b, _) in zip(batches.batches(resolution), expected, strict=True):
            assert torch.equal(a, b)


def test_changing_a_batch_leaves_the_set_alone():
    batches = eval_batches()
    before = [images.clone() for images, _ in batches.batches(12)]
    for images, _ in batches.batches(12):
        images.zero_()
    for (images, _), expected in zip(batches.batches(12), before, strict=True):
        assert torch.equal(images, expected)


def test_calibration_images_are_the_evaluation_images():
    batches = eval_batches()
    pairs = zip(batches.calibration_batches(8), batches.batches(8), strict=True)
    assert all(torch.equal(images, expected) for images, (expected, _) in pairs)


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"crop_ratio": 0.0}, {"crop_ratio": 1.5}])
def test_refused_evaluation_settings(change):
    with pytest.raises(ConfigError, match=f"{next(iter(change))} .* is not"):
        eval_batches(**change)
