"""Measures the cost of a run: seconds and tokens of each phase, peak memory."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from peml.records.run import Spent


class CostMeter:
    """Adds up the cost over all sessions of a run.

    Work that was lost in a kill is not counted.
    """

    def __init__(self, before: Spent | None = None) -> None:
        self._spent = (before or Spent()).model_copy(deep=True)
        self._running: tuple[str, float] | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the duration of a block to a phase."""
        self._running = (name, time.monotonic())
        try:
            yield
        finally:
            self._settle()
            self._running = None

    def _settle(self) -> None:
        if self._running is not None:
            name, since = self._running
            now = time.monotonic()
            self.add(name, now - since)
            self._running = (name, now)

    def add(self, phase: str, seconds: float) -> None:
        """Adds seconds that were measured elsewhere."""
        self._spent.seconds[phase] = self._spent.seconds.get(phase, 0.0) + seconds

    def count_step(self, phase: str, tokens: int) -> None:
        """Counts one optimiser step and its tokens without padding."""
        self._spent.steps[phase] = self._spent.steps.get(phase, 0) + 1
        self._spent.tokens[phase] = self._spent.tokens.get(phase, 0) + tokens

    def spent(self) -> Spent:
        """The cost so far."""
        self._settle()
        peak = max(self._spent.peak_memory_bytes or 0, peak_memory())
        self._spent = self._spent.model_copy(update={"peak_memory_bytes": peak})
        return self._spent.model_copy(deep=True)


def peak_memory() -> int:
    """Peak memory in bytes: that of the GPU, or of the process if there is no GPU."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    # getrusage would be wrong on Linux: its peak survives exec, so a process started by a larger
    # one would report its parent's.
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
