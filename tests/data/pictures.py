"""Pixels for tests."""

import numpy as np
from PIL import Image


def noise(seed: int, height: int = 24, width: int = 24, channels: int = 3) -> np.ndarray:
    """Return smooth random uint8 pixels ``(height, width, channels)``."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, channels), dtype=np.uint8)
    planes = [
        np.asarray(Image.fromarray(coarse[..., c]).resize((width, height), 2))
        for c in range(channels)
    ]
    return np.stack(planes, axis=-1)
