"""Which images belong to which rank."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from onceforall.errors import ConfigError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One rank among ``world_size``.

    Attributes:
        rank: 0 .. world_size - 1.
        world_size: Number of ranks; at least 1.
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank {self.rank} is not in 0 .. {self.world_size - 1}")

    def rows(self, batch_size: int) -> slice:
        """Return the rows of this rank in a batch of ``batch_size`` images a rank."""
        return slice(self.rank * batch_size, (self.rank + 1) * batch_size)

    def steps_per_epoch(self, num_images: int, batch_size: int) -> int:
        """Return the number of full batches over all ranks; at least 1."""
        return max(1, num_images // (batch_size * self.world_size))

    def step_indices(self, order: Tensor, step: int, batch_size: int) -> Tensor:
        """Return the ``batch_size`` images of this rank in ``step`` of an epoch in ``order``.

        An order shorter than one batch of all ranks is repeated.
        """
        first = (step * self.world_size + self.rank) * batch_size
        return order[torch.arange(first, first + batch_size) % len(order)]

    def eval_indices(self, num_images: int) -> Tensor:
        """Return every ``world_size``-th index from ``rank``: each image is in one rank."""
        return torch.arange(self.rank, num_images, self.world_size)
