"""AdamW over named parameter groups, and its state without pickles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peml.errors import ConfigError, nearest
from peml.training.settings import TrainingSettings

CONSTANT = "constant_rate"
SPAN = "span"
"""First step and end of a group's training, set on its entry in ``param_groups``."""


def build_optimizer(groups: Sequence[Any], settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW with one group per `ParameterGroup`.

    Args:
        groups: Objects with name, parameters, learning_rate and options. The option
            ``constant_rate`` keeps a group out of warm-up, decay and the common factor;
            ``warmup`` is a share of the steps of its own.
        settings: Rates that replace the groups' defaults, a common factor, the weight decay.

    Returns:
        The optimiser; without groups it holds nothing, since nothing trains.

    Raises:
        ConfigError: A rate is given for a group that doesn't exist.
    """
    names = [group.name for group in groups]
    for name in settings.learning_rates:
        if name not in names:
            raise ConfigError(
                f"training.learning_rates names the group {name!r}, which this method does not "
                f"have.{nearest(name, names)}",
                allowed=", ".join(names) or "nothing, since nothing trains",
                action="correct the name or remove the entry",
            )
    built = []
    for group in groups:
        options = {"weight_decay": settings.weight_decay, CONSTANT: False, **group.options}
        rate = settings.learning_rates.get(group.name, group.learning_rate)
        rate *= 1.0 if options[CONSTANT] else settings.learning_rate_factor
        built.append(
            {"params": list(group.parameters), "name": group.name, "lr": rate, "peak": rate}
            | options
        )
    # Torch wants a group, if only an empty one.
    return torch.optim.AdamW(built or [{"params": []}], fused=True)


def learning_rate_factor(
    step: int, total: int, settings: TrainingSettings, warmup: float | None = None
) -> float:
    """What the peak rate is multiplied with in step ``step`` of ``total`` (from 0).

    Args:
        step: Of the run.
        total: Steps of the run.
        settings: Schedule, and the share of steps that warm up.
        warmup: Another share than the settings'.
    """
    share = settings.warmup if warmup is None else warmup
    rising = max(1, round(share * total)) if share else 0
    if step < rising:
        return (step + 1) / rising
    progress = (step - rising) / max(1, total - rising)
    if settings.schedule == "linear":
        return 1 - progress
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0


def set_learning_rates(
    optimizer: torch.optim.Optimizer, step: int, total: int, settings: TrainingSettings
) -> dict[str, float]:
    """Sets every group's rate for a step and returns them by group.

    A group that trains in some phases only has its own `SPAN`, which the schedule spans for it.
    """
    for group in optimizer.param_groups:
        first, last = group.get(SPAN, (0, total))
        into = min(max(step, first), last) - first
        factor = learning_rate_factor(into, last - first, settings, group.get("warmup"))
        group["lr"] = group["peak"] * (1.0 if group[CONSTANT] else factor)
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The moments as ``{parameter name}/{moment}`` -> tensor."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": value.detach()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module, state: Mapping[str, Tensor]
) -> None:
    """Puts saved moments back; parameters without saved moments start afresh.

    This also carries the moments of what stays (LoRA, heads) over to a new optimiser after the
    discretisation. Where a parameter was cut to its first rows or columns, so are its moments.
    """
    saved: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, _, moment = key.rpartition("/")
        saved.setdefault(name, {})[moment] = value
    for name, parameter in model.named_parameters():
        moments = _cut(saved.get(name, {}), parameter)
        if moments and parameter.requires_grad and _fits(moments, parameter):
            # The fused optimiser wants the step counter on the parameter's device as well.
            optimizer.state[parameter] = {
                key: value.clone().to(parameter.device) for key, value in moments.items()
            }


def _cut(moments: Mapping[str, Tensor], parameter: Tensor) -> dict[str, Tensor]:
    """The part of the moments that is the parameter's, where it is nested in what it was."""
    part = tuple(slice(size) for size in parameter.shape)
    return {
        key: value[part] if value.dim() == parameter.dim() else value
        for key, value in moments.items()
    }


def _fits(moments: Mapping[str, Tensor], parameter: Tensor) -> bool:
    return all(v.shape == parameter.shape for k, v in moments.items() if k != "step")
