"""The processes of a run as threads of a test: what they exchange goes through a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor

from peml.distributed import World

T = TypeVar("T")
_PATIENCE = 60.0  # seconds


@dataclass
class _Table:
    barrier: Barrier
    values: list[Any]
    summed: int = 0
    """Bytes of the tensors that were summed, of one thread."""


@dataclass(frozen=True)
class ThreadWorld(World):
    """One of several threads."""

    table: _Table = field(default_factory=lambda: _Table(Barrier(1), [None]))

    def gather(self, value: T) -> list[T]:
        self.table.values[self.rank] = value
        self.table.barrier.wait(_PATIENCE)
        gathered = list(self.table.values)
        self.table.barrier.wait(_PATIENCE)
        return gathered

    def sum_(self, tensor: Tensor) -> None:
        gathered = self.gather(tensor.clone())
        if self.is_first:
            self.table.summed += tensor.numel() * tensor.element_size()
        tensor.copy_(sum(gathered[1:], start=gathered[0]))

    def stack(self, tensor: Tensor) -> Tensor:
        return torch.stack(self.gather(tensor))

    def from_first(self, make: Callable[[], T]) -> T:
        first: Any = self.gather(make() if self.is_first else None)[0]
        found: T = first
        return found


def worlds(size: int) -> list[ThreadWorld]:
    table = _Table(Barrier(size), [None] * size)
    return [ThreadWorld(rank, size, table) for rank in range(size)]


def together(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """What the jobs return, each run in a thread."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [job.result() for job in [pool.submit(job) for job in jobs]]
