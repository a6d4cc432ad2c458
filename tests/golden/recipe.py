"""The recipe that fills a network with numbers from a hash of its published key names.

Any implementation that knows the published names and shapes can make the same network without a
file: ``u`` of element ``j`` (from 1, row-major) of key ``K`` is a 32-bit mix of
``j * 2654435761 + crc32(K) * 2246822519 + 374761393``, scaled to [-1, 1).
"""

from __future__ import annotations

import zlib
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from onceforall.supernets.published.checkpoint import load_published, published_state_dict

Net = TypeVar("Net", bound=nn.Module)
CHECK = ("input", 3626513111, (-0.759068651, 0.855245903, 0.477705097, -0.277921037))


def hashed(key: str, count: int) -> np.ndarray:
    """Return ``count`` numbers in [-1, 1), float64."""
    x = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(2654435761)
    x += np.uint64(zlib.crc32(key.encode()) * 2246822519 + 374761393)
    x = x.astype(np.uint32)  # keeps the low 32 bits
    for shift, factor in ((15, 2246822519), (13, 3266489917), (16, 1)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    return x / 2.0**31 - 1.0


def value(key: str, shape: torch.Size) -> Tensor:
    """Return the float32 tensor of one key."""
    u = hashed(key, shape.numel()).reshape(tuple(shape))
    if key.endswith("_matrix"):
        u = np.eye(len(u)) + 0.05 * u
    elif key.endswith("running_mean"):
        u = 0.1 * u
    elif key.endswith("running_var"):
        u = 1 + 0.5 * u
    elif u.ndim == 4:
        u = u * np.sqrt(6 / np.prod(shape[1:]))
    elif u.ndim == 2:
        u = u / np.sqrt(shape[1])
    else:
        u = 0.1 * u if key.endswith("bias") else 1 + 0.1 * u
    return torch.from_numpy(u.astype(np.float32))


def fill(net: Net) -> Net:
    """Fill a network by the recipe, cast it to float64 and put it in eval mode."""
    state = {
        key: value(key, tensor.shape) if tensor.is_floating_point() else tensor
        for key, tensor in published_state_dict(net).items()  # type: ignore[arg-type]
    }
    load_published(net, state)  # type: ignore[arg-type]
    return net.double().eval()


def images(*shape: int) -> Tensor:
    """Return the recipe's images of a shape, float64: the hash of the key ``input``."""
    return torch.from_numpy(hashed("input", int(np.prod(shape)))).reshape(shape).float().double()
