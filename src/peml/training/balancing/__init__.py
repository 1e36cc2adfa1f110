"""Balancing the losses of many tasks. One file per strategy."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.training.balancing.base import Balancing, BalancingGroup
    from peml.training.balancing.pcgrad import PCGrad, project_conflicts
    from peml.training.balancing.running_mean import RunningMean
    from peml.training.balancing.settings import BalancingSettings
    from peml.training.balancing.strategies import STRATEGIES, build_balancing
    from peml.training.balancing.uncertainty import Uncertainty
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "STRATEGIES",
    "Balancing",
    "BalancingGroup",
    "BalancingSettings",
    "PCGrad",
    "RunningMean",
    "Uncertainty",
    "build_balancing",
    "project_conflicts",
]
