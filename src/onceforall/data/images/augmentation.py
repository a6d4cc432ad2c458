"""How training images are varied, as one value for resident and streamed data alike.

What is new here is done twice: in `batches/resident.py` for many images at once, and in
`batches/readers.py` for one from a file; a run's settings become this value in `job/data.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from onceforall.errors import ConfigError

Crop = Literal["none", "pad", "resized"]
ColorJitter = Literal["none", "tf", "torch"]
Policy = Literal["none", "randaugment", "trivialaugment"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "crop": ("none", "pad", "resized"),
    "padding_mode": ("zero", "reflect"),
    "color": ("none", "tf", "torch"),
    "policy": ("none", "randaugment", "trivialaugment"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Random variations of a training image.

    Attributes:
        crop: ``"none"``: the whole image; ``"pad"``: shifted by up to ``padding`` with the border
            filled (small images); ``"resized"``: a random part of random shape (photographs).
        padding: Largest shift for ``"pad"``, as a fraction of the image's side: 0.125 is the
            usual 4 of 32 pixels. 0 .. 0.5.
        padding_mode: What fills the border: black (``"zero"``) or the mirrored image.
        min_scale: Smallest part of the area for ``"resized"``, in (0, 1].
        ratio: Smallest width over height for ``"resized"``, in (0, 1]; the largest is 1 / ratio.
        flip: Mirror every second image. Not for digits or text.
        color: ``"tf"``: brightness by up to 32/255 and saturation by up to 0.5; ``"torch"``:
            brightness, contrast and saturation by up to 0.4 and hue by up to 0.1; or ``"none"``.
        cutout: Side of a square that shows the mean colour, as a fraction of the image's side.
            0 .. 1, 0 for none.
        policy: Learned or random image operations before the crop; streamed data only.
    """

    crop: Crop = "pad"
    padding: float = 0.125
    padding_mode: Literal["zero", "reflect"] = "zero"
    min_scale: float = 0.08
    ratio: float = 3 / 4
    flip: bool = True
    color: ColorJitter = "none"
    cutout: float = 0.0
    policy: Policy = "none"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"{name} {value!r} is not one of {', '.join(allowed)}")
        for name, low, high in (("padding", 0.0, 0.5), ("cutout", 0.0, 1.0)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} {value} is not in {low} .. {high}")
        for name in ("min_scale", "ratio"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ConfigError(f"{name} {value} is not in (0, 1]")


NO_AUGMENTATION = Augmentation(crop="none", flip=False)
SMALL_IMAGES = Augmentation()
PUBLISHED_PHOTOS = Augmentation(crop="resized", color="tf")
