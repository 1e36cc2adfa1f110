"""The processes that train one run together; the rest of the code asks a `World`.

``accelerate launch`` and ``torchrun`` start the same command several times. Accelerate connects the
processes (NCCL with GPUs, else gloo). Each holds the whole model and computes its part of a step's
batches; only gradients of trained parameters, and a few numbers, are exchanged::

    batches of a step    0   1   2   3
    process 0            x       x         gradients are summed over the processes,
    process 1                x       x     then each makes the same update
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from peml.errors import PemlError, RunError, TrainingError

T = TypeVar("T")

_TIMEOUT = timedelta(hours=6)
"""Longest wait for another process, which may encode rows or save; a dead one ends it at once."""


class PeerLostError(PemlError):
    """Another process of the run has ended."""


@dataclass(frozen=True)
class World:
    """The processes of a run as one of them sees them; a run of one process is alone.

    All processes have to call the same methods in the same order. Alone, nothing is exchanged.
    `rank` is the number of this process, from 0, `size` that of all.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def part(self) -> slice:
        """The share of this process of things that are dealt out in turn."""
        return slice(self.rank, None, self.size)

    def sum_(self, tensor: Tensor) -> None:
        """Replaces a tensor by its sum over the processes."""
        if self.size > 1:
            with _together():
                dist.all_reduce(tensor)

    def sum_of(self, tensor: Tensor, device: torch.device) -> Tensor:
        """The sum of the processes' tensors, exchanged through a device."""
        if self.size == 1:
            return tensor
        summed = tensor.to(device)
        self.sum_(summed)
        return summed.to(tensor.device)

    def sum_each(
        self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Sums of several tensors, in one exchange; None if no process has one.

        `like` has a tensor of the same shape for each, to replace a missing one.
        """
        if self.size == 1 or not like:
            return list(tensors)
        filled = [
            torch.zeros_like(zero) if tensor is None else tensor.to(zero.dtype)
            for tensor, zero in zip(tensors, like, strict=True)
        ]
        there = filled[0].new_tensor([tensor is not None for tensor in tensors])
        flat = torch.cat([*(tensor.flatten() for tensor in filled), there])
        self.sum_(flat)
        *parts, counts = flat.split([*(zero.numel() for zero in like), len(like)])
        return [
            part.view_as(zero).to(zero.dtype) if count else None
            for part, zero, count in zip(parts, like, counts.tolist(), strict=True)
        ]

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sums the gradients; a parameter without a gradient in any process keeps none."""
        sums = self.sum_each([parameter.grad for parameter in parameters], parameters)
        for parameter, gradient in zip(parameters, sums, strict=True):
            parameter.grad = gradient

    def stack(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, which have the same shape, (processes, ...)."""
        if self.size == 1:
            return tensor[None]
        stacked = tensor.new_empty(self.size, *tensor.shape)
        with _together():
            dist.all_gather(list(stacked), tensor)
        return stacked

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        with _together():
            dist.all_gather_object(gathered, value)
        return gathered

    def interleave(self, mine: Sequence[T]) -> list[T]:
        """Merges results of things that `part` dealt out, in the things' order."""
        dealt = self.gather(list(mine))
        return [dealt[n % self.size][n // self.size] for n in range(sum(map(len, dealt)))]

    def from_first(self, make: Callable[[], T]) -> T:
        """Runs `make` in process 0, and returns its result in all processes."""
        if self.size == 1:
            return make()
        made: list[Any] = [make() if self.is_first else None]
        with _together():
            dist.broadcast_object_list(made)
        found: T = made[0]
        return found

    def align(self, tensors: Sequence[Tensor]) -> None:
        """Copies process 0's tensors into those of the others."""
        if self.size > 1:
            for tensor in tensors:
                # The backends know no masks.
                copied = tensor.to(torch.uint8 if tensor.dtype == torch.bool else tensor.dtype)
                copied = copied.contiguous()
                with _together():
                    dist.broadcast(copied, 0)
                tensor.copy_(copied)


ALONE = World()


def join() -> World:
    """Connects the processes that a launcher has started; `ALONE` without one.

    Raises:
        TrainingError: There are more processes than GPUs, or they can't be connected.
    """
    world = _launched()
    if world.size == 1:
        return ALONE
    from accelerate.state import PartialState

    gpus = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if 0 < gpus < int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        raise TrainingError(
            f"the run was started in more processes than this machine has GPUs: {gpus}",
            allowed="at most one process for each GPU",
            action=f"start it with --num_processes {gpus} (torchrun: --nproc-per-node {gpus})",
        )
    try:
        state = PartialState(cpu=not gpus, timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"the {world.size} processes of the run can't be connected: {error}",
            action="start it with `accelerate launch` or `torchrun`, on machines that reach each "
            "other",
        ) from error
    if state.num_processes != world.size:
        raise TrainingError(
            f"the run was started in {world.size} processes, which can't train together on "
            f"{state.device}",
            allowed="NVIDIA GPUs, or CPUs",
            action="start it with `peml fit`, without a launcher",
        )
    return world


def join_for(command: str) -> None:
    """Connects the processes for a command; from then on, warnings they all have are shown once.

    Raises:
        RunError: The command runs in one process.
    """
    world = join()
    if world.size == 1:
        return
    _show_once()
    if command != "fit":
        raise RunError(
            f"`peml {command}` was started in {world.size} processes",
            allowed="one process; a launcher starts `peml fit` only",
            action=f"start `peml {command}` without a launcher",
        )


def leave() -> None:
    """Disconnects this process at the end of a command; not after an error, when it may hang."""
    if dist.is_initialized():
        dist.destroy_process_group()


def speaks(of: str = "its end") -> bool:
    """Whether this process shows a message: it is the first of the run to ask about it."""
    world = _launched()
    if world.size == 1:
        return True
    if not dist.is_initialized():  # all processes of a machine have the same reason
        return os.environ.get("LOCAL_RANK", "0") == "0"
    key = f"peml/{sha256(of.encode()).hexdigest()}"
    try:
        winner = dist.distributed_c10d._get_default_store().compare_set(key, "", str(world.rank))
    except RuntimeError:  # who keeps the list has ended, and has said why
        return False
    return bool(winner == str(world.rank).encode())


def named() -> str:
    """The beginning of a process's messages: its number, if it isn't the first."""
    world = _launched()
    return "" if world.is_first else f"process {world.rank}: "


def _launched() -> World:
    """This process according to the launcher."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return ALONE
    size = int(os.environ["WORLD_SIZE"])
    return World(int(os.environ["RANK"]), size) if size > 1 else ALONE


def _show_once() -> None:
    show = warnings.showwarning

    def shown(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if speaks(str(message)):
            show(f"{named()}{message}", category, *rest, **more)

    warnings.showwarning = shown


@contextmanager
def _together() -> Iterator[None]:
    """Turns a failed exchange into an error with a message."""
    try:
        yield
    except RuntimeError as error:
        raise _lost_peer() from error


@contextmanager
def noticing_lost_peers() -> Iterator[None]:
    """Turns a failed exchange inside of PyTorch's FSDP into an error with a message.

    Raises:
        PeerLostError: Another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise _lost_peer() from error


def _lost_peer() -> PeerLostError:
    return PeerLostError(
        "another process of this run has ended",
        action="see its message; without one it was killed, perhaps for lack of memory. Run "
        "the same command again: it continues from the last checkpoint",
    )
