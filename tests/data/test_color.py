import colorsys

import pytest
import torch
from torchvision.transforms.v2 import functional as vision

from onceforall.data.batches.resident import ResidentBatches
from onceforall.data.bundle import ImageArrays
from onceforall.data.images.augmentation import Augmentation
from onceforall.data.images.color import (
    Jitter,
    color_matrices,
    jitter_colors,
    map_pixels,
    normalize_matrix,
)
from onceforall.data.images.device_ops import normalize

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
# Values in the middle, which no operation of the strengths used here clips.
LOW, HIGH = 100, 150
TORCH = Jitter.of("torch")


def images_of(count=3, side=8, low=LOW, high=HIGH):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(low, high, (count, 3, side, side), generator=generator).float()


def draws_of(count, order, **factors):
    """Draws that give one factor each and the operations in an order."""
    row = torch.full((8,), 0.5)
    for name, value in factors.items():
        row[["brightness", "contrast", "saturation", "hue"].index(name)] = value
    row[4:] = torch.tensor([order.index(i) / 4 for i in range(4)])
    return row.repeat(count, 1)


def published(image, name, factor):
    operation = getattr(vision, f"adjust_{name}")
    return operation(image / 255, factor) * 255


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("draw", [0.0, 0.3, 0.9])
def test_one_operation_is_torchvisions(name, draw):
    images = images_of()
    factor = 1 + 0.4 * (2 * draw - 1)
    changed = jitter_colors(images, TORCH, draws_of(3, [0, 1, 2, 3], **{name: draw}))
    expected = torch.stack([published(image, name, factor) for image in images])
    # Grey weights of four digits there and of three here.
    torch.testing.assert_close(changed, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 1, 0, 3], [1, 3, 2, 0]])
def test_operations_run_in_their_order(order):
    images = images_of()
    draws = {"brightness": 0.9, "contrast": 0.2, "saturation": 0.8}
    changed = jitter_colors(images, TORCH, draws_of(3, order, **draws))
    expected = images
    for name in (["brightness", "contrast", "saturation", "hue"][i] for i in order):
        if name in draws:
            factor = 1 + 0.4 * (2 * draws[name] - 1)
            expected = torch.stack([published(image, name, factor) for image in expected])
    torch.testing.assert_close(changed, expected, rtol=0, atol=0.2)


def test_hue_turns_about_grey():
    images = images_of()
    turned = jitter_colors(images, TORCH, draws_of(3, [0, 1, 2, 3], hue=1.0))
    grey = torch.tensor([0.299, 0.587, 0.114])
    before, after = (torch.einsum("c,bchw->bhw", grey, x) for x in (images, turned))
    torch.testing.assert_close(after, before, rtol=0, atol=0.01)
    assert float((turned - images).abs().mean()) > 5
    same = jitter_colors(
        images[:, :1].repeat(1, 3, 1, 1), TORCH, draws_of(3, [0, 1, 2, 3], hue=1.0)
    )
    torch.testing.assert_close(same, images[:, :1].repeat(1, 3, 1, 1), rtol=0, atol=0.01)


@pytest.mark.parametrize("color", [(150, 110, 110), (110, 150, 110), (130, 140, 110)])
def test_hue_turns_as_far_as_in_hsv(color):
    image = torch.tensor(color).float().view(1, 3, 1, 1)
    turned = jitter_colors(image, TORCH, draws_of(1, [0, 1, 2, 3], hue=1.0))
    before, after = (colorsys.rgb_to_hsv(*x.flatten().tolist())[0] for x in (image, turned))
    # A tenth of a turn in YIQ is not quite one in HSV.
    assert (after - before) % 1 == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize(
    ("mode", "strengths"), [("tf", (32 / 255, 0, 0.5, 0)), ("torch", (0.4, 0.4, 0.4, 0.1))]
)
def test_strengths_are_the_published_ones(mode, strengths):
    eye = torch.eye(4)
    for low, high in ((0.0, -1.0), (1.0, 1.0)):
        for i, name in enumerate(("brightness", "contrast", "saturation", "hue")):
            draws = draws_of(1, [0, 1, 2, 3], **{name: low})
            matrix = color_matrices(Jitter.of(mode), draws, torch.zeros(1, 3))[0]
            strength = high * strengths[i]
            if name in ("brightness", "contrast"):
                assert float(matrix[0, 0]) == pytest.approx(1 + strength)
            elif strength == 0:
                torch.testing.assert_close(matrix, eye)
            else:
                assert float((matrix - eye).abs().max()) > 0.05


def test_no_jitter_is_the_identity():
    matrices = color_matrices(
        Jitter.of("none"), torch.rand(5, 8, generator=torch.Generator()), torch.zeros(5, 3)
    )
    assert torch.equal(matrices, torch.eye(4).repeat(5, 1, 1))


def test_values_are_clipped():
    images = images_of(low=0, high=256)
    changed = jitter_colors(images, TORCH, draws_of(3, [0, 1, 2, 3], brightness=1.0))
    assert torch.equal(changed, (images * 1.4).clamp(0, 255)) or torch.allclose(
        changed, (images * 1.4).clamp(0, 255), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("side", [3, 4, 6, 9, 32])
def test_mapping_pixels_is_one_matrix_per_pixel(side):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, side, side, 4), generator=generator, dtype=torch.uint8)
    pixels[..., 3] = 255
    matrices = normalize_matrix(MEAN, STD) @ color_matrices(
        Jitter.of("tf"), torch.rand(4, 8, generator=generator), torch.zeros(4, 3)
    )
    low, high = torch.tensor([-1.0, -0.9, -0.8]), torch.tensor([1.0, 1.1, 1.2])
    result = map_pixels(pixels, matrices, low=low, high=high)
    points = torch.cat([pixels[..., :3].double(), torch.ones(4, side, side, 1)], dim=3)
    expected = torch.einsum("brsi,boi->bors", points, matrices[:, :3].double()).float()
    expected = expected.clamp(low.view(3, 1, 1), high.view(3, 1, 1))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(map_pixels(list(pixels), matrices, low=low, high=high), result)
    for chunk in (3, 4):  # as on a GPU
        together = map_pixels(pixels, matrices, low=low, high=high, chunk=chunk)
        torch.testing.assert_close(together, result, rtol=0, atol=1e-5)


def test_normalize_matrix_normalises():
    images = images_of(low=0, high=256)
    points = torch.cat([images, torch.ones(3, 1, 8, 8)], dim=1)
    result = torch.einsum("oi,bihw->bohw", normalize_matrix(MEAN, STD), points)[:, :3]
    torch.testing.assert_close(result, normalize(images, mean=MEAN, std=STD), rtol=0, atol=1e-5)


def test_resident_batches_change_colours():
    arrays = ImageArrays(
        images=torch.full((20, 3, 8, 8), 120, dtype=torch.uint8),
        labels=torch.zeros(20, dtype=torch.int64),
    )

    def batch(color):
        batches = ResidentBatches(
            arrays,
            augmentation=Augmentation(crop="none", color=color),
            mean=MEAN,
            std=STD,
            batch_size=20,
            seed=0,
        )
        return batches.batch(0, 0, resolution=8)[0]

    plain, changed = batch("none"), batch("tf")
    assert torch.equal(changed, batch("tf")) and not torch.equal(changed, plain)
    assert changed.is_contiguous(memory_format=torch.channels_last)
    # Brightness is all that changes in a grey image: up to 32/255 of 120, another for each image.
    levels = (changed - plain)[:, 0, 0, 0] * (255 * STD[0])
    assert float(levels.abs().max()) < 120 * 32 / 255 + 0.01
    assert 5 < float(levels.std()) < 12 and len(levels.unique()) == 20
