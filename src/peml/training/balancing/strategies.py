"""The strategies by name."""

from collections.abc import Sequence

from peml.training.balancing.base import Balancing
from peml.training.balancing.pcgrad import PCGrad
from peml.training.balancing.running_mean import RunningMean
from peml.training.balancing.settings import BalancingSettings
from peml.training.balancing.uncertainty import Uncertainty

STRATEGIES: dict[str, type[Balancing]] = {
    "fixed": Balancing,
    "running-mean": RunningMean,
    "uncertainty": Uncertainty,
    "pcgrad": PCGrad,
}


def build_balancing(settings: BalancingSettings, tasks: Sequence[str], seed: int) -> Balancing:
    """Creates the strategy of a config; arguments and errors as for `Balancing`."""
    return STRATEGIES[settings.strategy](settings, tasks, seed)
