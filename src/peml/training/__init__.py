"""Training: the loop, the optimiser and the checkpoints."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.training.balancing import Balancing, BalancingSettings, build_balancing
    from peml.training.checkpoints import (
        Checkpoint,
        CheckpointStore,
        load_random_state,
        random_state,
    )
    from peml.training.loop import Phase, Progress, TrainingLoop
    from peml.training.optimizer import SPAN, build_optimizer, load_optimizer_state, optimizer_state
    from peml.training.settings import TrainingSettings
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "SPAN",
    "Balancing",
    "BalancingSettings",
    "Checkpoint",
    "CheckpointStore",
    "Phase",
    "Progress",
    "TrainingLoop",
    "TrainingSettings",
    "build_balancing",
    "build_optimizer",
    "load_optimizer_state",
    "load_random_state",
    "optimizer_state",
    "random_state",
]
