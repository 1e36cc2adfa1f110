"""Checks that a run's numbers and weights are finite, and the errors that say what is wrong."""

import math
from collections.abc import Mapping

import torch

from peml.errors import TrainingError

_LOWER_RATES = (
    "lower training.learning_rates (prefix first) in a new run folder; the last checkpoint of this "
    "run is untouched"
)


def check_numbers(
    step: int,
    loss: float,
    norm: float,
    losses: Mapping[str, float],
    *,
    explode_at: float,
    advice: str,
) -> None:
    """Checks a step's loss and gradient norm.

    ``step`` counts from 1, ``norm`` is that of the gradient before clipping, ``losses`` are the
    tasks' means for the message; ``advice`` is for a frozen model without finite numbers.

    Raises:
        TrainingError: Loss or norm is not finite, or the loss exceeds `explode_at`.
    """
    if math.isfinite(loss) and math.isfinite(norm) and loss <= explode_at:
        return
    by_task = ", ".join(f"{name} {value:.3g}" for name, value in sorted(losses.items()))
    numbers = f"loss {loss:.4g}, gradient norm {norm:.4g}; losses by task: {by_task}"
    allowed = f"finite numbers, a loss of at most {explode_at:g} (training.explode_at)"
    if step > 1:
        raise TrainingError(
            f"training diverged at step {step}: {numbers}", allowed=allowed, action=_LOWER_RATES
        )
    # No weight has changed yet, so no learning rate can be the cause.
    if math.isfinite(loss) and math.isfinite(norm):
        what, action = "starts above training.explode_at", "raise it, or check the targets"
    elif math.isfinite(loss):
        what, action = "gives no finite gradient", advice
    else:
        what, action = f"itself gives {loss:.4g}", advice
    raise TrainingError(
        f"training can't start: before the first step the frozen model {what}: {numbers}",
        allowed=allowed,
        action=action,
    )


def check_weights(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Raises a TrainingError if a weight is NaN or infinite, before it is evaluated or saved."""
    broken = [
        group.get("name", "unnamed")
        for group in optimizer.param_groups
        if not all(bool(parameter.isfinite().all()) for parameter in group["params"])
    ]
    if broken:
        raise TrainingError(
            f"training diverged at step {step}: after it, weights of {', '.join(broken)} are NaN "
            "or infinite",
            allowed="finite weights",
            action=_LOWER_RATES,
        )
