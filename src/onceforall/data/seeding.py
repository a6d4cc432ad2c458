"""Private generators: every random draw of the data layer follows from integers that name it.

A draw is named by what it is for and where it stands (seed, epoch, step, image), never by how many
draws came before it. That is what makes a batch a pure function: the same for any number of
workers or ranks, and after a restart in the middle of an epoch.
"""

from __future__ import annotations

import hashlib
import struct

import torch


def derive_seed(purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed that depends on every argument.

    Args:
        purpose: What the draw is for, e.g. ``"permutation"``; keeps streams apart.
        *numbers: Where the draw stands, e.g. seed, epoch and step.
    """
    key = ":".join((purpose, *map(str, numbers))).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def private_generator(purpose: str, *numbers: int) -> torch.Generator:
    """Return a CPU ``torch.Generator`` seeded by `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(purpose, *numbers))


def named_uniforms(count: int, purpose: str, *numbers: int) -> list[float]:
    """Return ``count`` floats uniform in [0, 1) that depend on the name alone.

    One hash is several times cheaper than seeding a generator, which matters once per image.
    """
    key = ":".join((purpose, *map(str, numbers))).encode()
    words = struct.unpack(f"<{count}Q", hashlib.shake_128(key).digest(8 * count))
    return [(word >> 11) * 2**-53 for word in words]
