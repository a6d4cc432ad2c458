import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop

from onceforall.data.images import pixels as pixels_module
from onceforall.data.images.augmentation import Augmentation
from onceforall.data.images.jpeg import lower_height, read_header
from onceforall.data.images.pixels import NUM_BOX_DRAWS, centre_box, random_box, read_crop
from onceforall.data.seeding import named_uniforms
from onceforall.errors import DataError
from tests.data.pictures import noise

SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


def detailed(seed, height, width):
    """Smooth colours with fine grain, so that every row and column differs."""
    grain = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    return np.clip(noise(seed, height, width) + grain, 0, 255).astype(np.uint8)


def encoded(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


# Headers


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_header_of_an_ordinary_file(sampling):
    header = read_header(encoded(detailed(0, 70, 50), subsampling=sampling))
    assert (header.width, header.height, header.has_exif) == (50, 70, False)


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def without_adobe_transform(data):
    """An Adobe segment that says the components are RGB."""
    segment = b"Adobe\x00\x64\x00\x00\x00\x00\x00"
    return data[:2] + b"\xff\xee" + (len(segment) + 2).to_bytes(2) + segment + data[2:]


def without_segment(data, marker):
    """Cut one segment out of the head of a file."""
    place = data.index(b"\xff" + bytes([marker]))
    return data[:place] + data[place + 2 + int.from_bytes(data[place + 2 : place + 4]) :]


def test_header_finds_exif():
    assert read_header(encoded(detailed(0, 20, 20), exif=exif_of(6))).has_exif


PIXELS = detailed(0, 40, 40)
UNUSUAL = {
    "progressive": encoded(PIXELS, progressive=True),
    "grey": encoded(PIXELS[..., 0]),
    "rgb": encoded(PIXELS, keep_rgb=True),
    "rgb by names only": without_segment(encoded(PIXELS, keep_rgb=True), 0xEE),
    "adobe rgb": without_adobe_transform(encoded(PIXELS)),
    "cut in the header": encoded(PIXELS)[:100],
    "only the start": b"\xff\xd8",
    "not a jpeg": b"\x89PNG\r\n",
    "empty": b"",
    "no marker": b"\xff\xd8\x00\x00\x00\x00",
    "ended": b"\xff\xd8\xff\xd9\x00\x02",
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_files_have_no_header(name):
    assert read_header(UNUSUAL[name]) is None


@pytest.mark.parametrize("restart", [0, 1])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_rows_that_remain_are_the_same_bit_for_bit(sampling, restart):
    data = encoded(detailed(1, 117, 90), subsampling=sampling, restart_marker_rows=restart)
    whole = decoded(data)
    header = read_header(data)
    for rows in range(1, 118):
        lower, height = lower_height(data, header, rows)
        assert rows <= height <= min(117, rows + 18)
        part = decoded(bytes(lower))
        assert part.shape == (height, 90, 3)
        assert (part[:rows] == whole[:rows]).all()


# Boxes


def test_boxes_are_inside_and_have_the_published_distribution():
    augmentation = Augmentation(crop="resized")
    ours = np.array(
        [
            random_box(100, 60, augmentation, named_uniforms(NUM_BOX_DRAWS, "t", i))
            for i in range(3000)
        ],
        dtype=float,
    )
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] <= (100, 60)).all()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        image = torch.empty(3, 60, 100)
        params = [
            RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)
        ]
    top, left, height, width = np.array(params, dtype=float).T
    for mine, published in zip(ours.T, (left, top, left + width, top + height), strict=True):
        # Means of 3,000 draws with deviations below 25: three standard errors are below 2.
        assert mine.mean() == pytest.approx(published.mean(), abs=2)
        assert mine.std() == pytest.approx(published.std(), abs=1.5)


def test_box_of_a_narrow_image_is_central():
    draws = named_uniforms(NUM_BOX_DRAWS, "t", 0)
    augmentation = Augmentation(crop="resized", min_scale=1.0)
    assert random_box(100, 10, augmentation, draws) == (43, 0, 56, 10)
    assert random_box(10, 100, augmentation, draws) == (0, 43, 10, 56)
    assert random_box(1, 1, augmentation, draws) == (0, 0, 1, 1)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (3, 900), (30, 20)])
def test_centre_box_is_inside(size):
    left, top, right, bottom = centre_box(*size, resolution=64, crop_ratio=0.875)
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert abs((left + right) - size[0]) <= 2 and abs((top + bottom) - size[1]) <= 2


# Crops


@pytest.fixture(params=["pillow", "simplejpeg"])
def decoder(request, monkeypatch):
    """Both ways to decode an ordinary JPEG file."""
    if request.param == "pillow":
        monkeypatch.setattr(pixels_module, "simplejpeg", None)
    elif pixels_module.simplejpeg is None:
        pytest.skip("simplejpeg is not installed: pip install 'onceforall[jpeg]'")
    return request.param


def read(path, box, resolution):
    pixels = read_crop(str(path), lambda width, height: box, resolution=resolution)
    assert pixels.shape == (resolution, resolution, 4) and (pixels[..., 3] == 255).all()
    return pixels[..., :3].numpy().astype(int)


def test_crop_at_its_own_size_is_exact(tmp_path, decoder):
    (tmp_path / "a.jpg").write_bytes(encoded(detailed(2, 90, 120)))
    whole = decoded((tmp_path / "a.jpg").read_bytes()).astype(int)
    box = (30, 10, 80, 60)
    assert (read(tmp_path / "a.jpg", box, 50) == whole[10:60, 30:80]).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_crop_resizes_as_torch_does(tmp_path, suffix, decoder):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(detailed(2, 90, 120)).save(path)
    whole = decoded(path.read_bytes())
    part = torch.from_numpy(whole[10:70, 30:110].copy()).permute(2, 0, 1)[None]
    expected = F.interpolate(part, (41, 41), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    rgb = read(path, (30, 10, 110, 70), 41)
    difference = np.abs(rgb - expected.numpy().astype(int))
    # Chroma of a JPEG crop that shrinks is repeated instead of interpolated.
    assert difference.max() <= (1 if suffix == ".png" else 12)
    assert difference.mean() <= (0.1 if suffix == ".png" else 2)


@pytest.mark.parametrize("resolution", [100, 45, 20])
def test_reduced_decoding_stays_close(tmp_path, resolution, decoder):
    (tmp_path / "a.jpg").write_bytes(encoded(noise(3, 300, 400), subsampling="4:2:0"))
    box = (37, 21, 381, 259)
    whole = torch.from_numpy(decoded((tmp_path / "a.jpg").read_bytes()).copy())
    part = whole[box[1] : box[3], box[0] : box[2]].permute(2, 0, 1)[None]
    expected = F.interpolate(part, (resolution,) * 2, mode="bilinear", antialias=True)
    rgb = read(tmp_path / "a.jpg", box, resolution)
    # The box is rounded by up to half a reduced pixel, here 4 pixels that differ by 2 each.
    difference = np.abs(rgb - expected[0].permute(1, 2, 0).numpy().astype(int))
    assert difference.mean() < 4 and difference.max() < 24


@pytest.mark.parametrize("kind", ["progressive", "grey", "rgb", "png", "exif 1", "exif 6"])
def test_every_kind_of_file_shows_the_same_part(tmp_path, kind, decoder):
    pixels = noise(4, 80, 60)
    options = {
        "progressive": {"progressive": True},
        "rgb": {"keep_rgb": True},
        "exif 1": {"exif": exif_of(1)},
        "exif 6": {"exif": exif_of(6)},
    }
    path = tmp_path / ("a.png" if kind == "png" else "a.jpg")
    source = pixels[..., :1].repeat(3, axis=2) if kind == "grey" else pixels
    stored = np.rot90(source) if kind == "exif 6" else source
    image = Image.fromarray(stored[..., 0] if kind == "grey" else stored)
    image.save(path, **({"quality": 95, **options.get(kind, {})} if kind != "png" else {}))
    seen = []

    def choose(width, height):
        seen.append((width, height))
        return 20, 30, 50, 60

    read_crop(str(path), choose, resolution=30)
    assert seen == [(60, 80)]
    shown = read(path, (20, 30, 50, 60), 30)
    assert np.abs(shown - source[30:60, 20:50].astype(int)).mean() < 3


@pytest.mark.parametrize("keep", [0, 50, 0.5])
def test_damaged_file_is_named(tmp_path, keep, decoder):
    data = encoded(detailed(5, 200, 200))
    size = keep if isinstance(keep, int) else int(len(data) * keep)
    (tmp_path / "bad.jpg").write_bytes(data[:size])
    with pytest.raises(DataError, match=r"bad\.jpg: cannot be read as an image") as caught:
        read(tmp_path / "bad.jpg", (0, 0, 200, 200), 32)
    assert "\n" not in str(caught.value)


def test_a_file_cut_below_the_crop_never_gives_wrong_pixels(tmp_path, decoder):
    """Rows that are not needed may be missing; what is shown is right, or the file is refused."""
    data = encoded(detailed(5, 200, 200))
    whole = decoded(data).astype(int)
    outcomes = set()
    for keep in range(len(data) // 10, len(data), len(data) // 40):
        (tmp_path / "cut.jpg").write_bytes(data[:keep])
        try:
            shown = read(tmp_path / "cut.jpg", (0, 0, 40, 40), 40)
        except DataError:
            outcomes.add("refused")
            continue
        assert np.abs(shown - whole[:40, :40]).max() <= 2
        outcomes.add("shown")
    assert "refused" in outcomes
