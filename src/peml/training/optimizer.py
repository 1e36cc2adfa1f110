"""AdamW over named parameter groups, and its state as plain tensors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peml.errors import ConfigError, nearest
from peml.training.settings import TrainingSettings

CONSTANT = "constant_rate"
SPAN = "span"
"""Key in a group of ``param_groups``: first step and end of the group's training."""


def build_optimizer(groups: Sequence[Any], settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW with one group per `ParameterGroup`.

    Args:
        groups: Objects with name, parameters, learning_rate and options. A group with the option
            ``constant_rate`` has no warm-up or decay and ignores the common factor; ``warmup``
            replaces the settings' share of warm-up steps.
        settings: Rates that replace the groups' defaults, a common factor, the weight decay.

    Raises:
        ConfigError: A rate is given for a group that doesn't exist.
    """
    names = [group.name for group in groups]
    for name in settings.learning_rates:
        if name not in names:
            raise ConfigError(
                f"training.learning_rates names the group {name!r}, which this method does not "
                f"have.{nearest(name, names)}",
                allowed=", ".join(names) or "no entries, since nothing is trained",
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
    # Torch requires at least one group, even if nothing trains.
    return torch.optim.AdamW(built or [{"params": []}], fused=True)


def learning_rate_factor(
    step: int, total: int, settings: TrainingSettings, warmup: float | None = None
) -> float:
    """Factor of the peak rate in step ``step`` (from 0) of ``total``.

    ``warmup`` replaces the settings' share of warm-up steps.
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
    """Sets every group's rate for a step, and returns the rates by group.

    The schedule of a group that trains only in some phases spans the group's `SPAN`.
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
    """Restores saved moments; parameters without saved moments start from zero.

    Also used after the search, to keep the moments of LoRA and heads in a new optimiser. If a
    parameter was cut to its first rows or columns, its moments are cut too.
    """
    saved: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, _, moment = key.rpartition("/")
        saved.setdefault(name, {})[moment] = value
    for name, parameter in model.named_parameters():
        part = tuple(slice(size) for size in parameter.shape)
        moments = {
            key: value[part] if value.dim() == parameter.dim() else value
            for key, value in saved.get(name, {}).items()
        }
        fits = all(v.shape == parameter.shape for k, v in moments.items() if k != "step")
        if moments and parameter.requires_grad and fits:
            # The fused optimiser needs the step counter on the parameter's device too.
            optimizer.state[parameter] = {
                key: value.clone().to(parameter.device) for key, value in moments.items()
            }
