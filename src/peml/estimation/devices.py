"""The devices that a run can be estimated for."""

import os
from dataclasses import dataclass
from typing import Literal

from peml.errors import ConfigError, nearest

GIB = 2**30

_CORE = 96e9
"""FLOP/s of a CPU core in float32: 3 GHz, two fused multiply-adds on eight numbers each."""


@dataclass(frozen=True)
class Device:
    """Memory and speed of a device.

    Attributes:
        name: Name on the command line.
        title: Name in a data sheet.
        kind: ``gpu`` or ``cpu``; some code depends on it.
        memory: Bytes; None if unknown.
        fp32: Peak in float32, FLOP/s.
        bf16: Peak in bfloat16 with float32 sums, FLOP/s, without sparsity.
        overhead: Bytes that libraries use without any tensor.
    """

    name: str
    title: str
    kind: Literal["gpu", "cpu"]
    memory: int | None
    fp32: float
    bf16: float
    overhead: int

    def peak(self, precision: str) -> float:
        """FLOP/s in a precision of a run, ``fp32`` or ``bf16``."""
        return self.bf16 if precision == "bf16" else self.fp32


_GPUS = {
    "h100": Device("h100", "NVIDIA H100 SXM", "gpu", 80 * 10**9, 67e12, 989e12, GIB),
    "a100": Device("a100", "NVIDIA A100 80 GB", "gpu", 80 * 10**9, 19.5e12, 312e12, GIB),
    "rtx4090": Device("rtx4090", "NVIDIA RTX 4090", "gpu", 24 * GIB, 82.6e12, 165e12, GIB),
}
DEVICES = (*_GPUS, "cpu")


def read_device(name: str) -> Device:
    """The device of this name; ``cpu`` is this machine. Raises a ConfigError if there is none."""
    if name in _GPUS:
        return _GPUS[name]
    if name != "cpu":
        raise ConfigError(
            f"device is {name!r}.{nearest(name, DEVICES)}",
            allowed=", ".join(DEVICES),
            action="name one of these; memory and FLOPs are the same on other GPUs",
        )
    cores = os.cpu_count() or 1
    title = f"{cores} CPU core{'s' if cores > 1 else ''}"
    return Device("cpu", title, "cpu", _installed(), cores * _CORE, 2 * cores * _CORE, 6 * 10**8)


def _installed() -> int | None:
    """Memory of this machine in bytes; None if the system doesn't say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
