"""Draws that are named, not counted."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from onceforall.data.seeding import derive_seed, named_uniforms, private_generator


def test_every_part_of_a_name_counts() -> None:
    names = [
        (purpose, *numbers)
        for purpose in ("image", "epoch")
        for numbers in itertools.product(range(4), repeat=3)
    ]
    names += [("image", 1, 23), ("image", 12, 3), ("image", 123), ("image",), ("image", -1)]
    assert len({derive_seed(*name) for name in names}) == len(names)
    assert len({tuple(named_uniforms(2, *name)) for name in names}) == len(names)
    assert all(0 <= derive_seed(*name) < 2**63 for name in names)


def test_a_name_means_the_same_on_every_machine() -> None:
    """Recorded once: a run that goes on elsewhere draws the same."""
    assert derive_seed("permutation", 0, 1) == 8727956667549197558
    assert named_uniforms(2, "image", 0, 1, 2) == [0.4711525971487114, 0.02537232425430913]


def test_fewer_draws_are_the_first_of_more() -> None:
    assert named_uniforms(3, "image", 7) == named_uniforms(9, "image", 7)[:3]


def test_draws_are_uniform() -> None:
    draws = np.array([named_uniforms(8, "image", seed) for seed in range(2000)])
    assert draws.min() >= 0 and draws.max() < 1
    # 16,000 draws: three standard errors of the mean are .007, of each tenth's share .007.
    assert abs(draws.mean() - 0.5) < 0.007
    shares = np.histogram(draws, bins=10, range=(0, 1))[0] / draws.size
    assert np.abs(shares - 0.1).max() < 0.0085


def test_a_generator_of_its_own_leaves_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    first = torch.rand(3, generator=private_generator("epoch", 5))
    assert torch.equal(first, torch.rand(3, generator=private_generator("epoch", 5)))
    assert not torch.equal(first, torch.rand(3, generator=private_generator("epoch", 6)))
    assert torch.equal(torch.random.get_rng_state(), before)
