"""Balancing the losses of many tasks. One file per strategy."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.training.balancing.base import Balancing
    from peml.training.balancing.settings import BalancingSettings
    from peml.training.balancing.strategies import STRATEGIES, build_balancing
else:
    __getattr__ = hand_on(__name__)

__all__ = ["STRATEGIES", "Balancing", "BalancingSettings", "build_balancing"]
