"""Estimates the memory, FLOPs and hours of a run from its config."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.estimation.devices import Device, read_device
    from peml.estimation.estimate import estimate
    from peml.estimation.record import Estimate
else:
    __getattr__ = hand_on(__name__)

__all__ = ["Device", "Estimate", "estimate", "read_device"]
