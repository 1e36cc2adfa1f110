"""AdaLoRA: ranks that are pruned while training (Zhang et al., 2303.10512), through PEFT."""

import copy
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import AdaLoraConfig, PeftConfig
from peft.tuners.adalora import AdaLoraModel
from torch import Tensor

from peml.errors import ModelError, TrainingError
from peml.methods.base import AttachContext, MethodSettings
from peml.methods.lora.part import ADAPTER, PeftMethod, PeftPart
from peml.methods.lora.settings import AdaLoraSettings


class AdaLoraPart(PeftPart):
    """PEFT's AdaLoRA layers, and the allocation of ranks among them.

    The schedule spans ``total_steps``, the optimiser steps of the run.

    A rank is pruned by setting its E to zero. Nothing is pruned before ``tinit``; then the budget
    falls along a cubic; in the last ``tfinal`` steps the pruned ranks stay.

    Raises:
        TrainingError: The run is too short to prune in.
    """

    def __init__(self, model: Any, settings: AdaLoraSettings, seed: int, total_steps: int) -> None:
        config = _config(settings, total_steps)
        super().__init__(model, AdaLoraModel, config, settings, seed)
        self._orth_reg_weight = settings.orth_reg_weight
        # Created now, not when the allocator needs them, so that checkpoints always have the same
        # tensors; PEFT stores the masks as lists in its config.
        self._masks = {
            name: torch.ones(len(parameter), dtype=torch.bool)
            for name, parameter in self._parameters.items()
            if f"lora_E.{ADAPTER}" in name
        }
        self._fill_statistics()

    def ranks(self) -> dict[str, int]:
        """The remaining ranks, by the layer's path."""
        return {
            name.partition(".lora_E.")[0]: int(self._parameters[name].count_nonzero())
            for name in self._masks
        }

    def auxiliary_loss(self) -> Tensor | None:
        """Mean over all factors of ||A A^T - I|| and ||B^T B - I||, weighted (equation 4).

        PEFT adds the same to the loss of a `PeftModel`, which is not used here.
        """
        losses = []
        # In half precision 1 - the sum of squares would be mostly rounding.
        with torch.autocast(next(iter(self._parameters.values())).device.type, enabled=False):
            for name, factor in self._parameters.items():
                if ".lora_E." in name:
                    continue
                gram = factor @ factor.T if ".lora_A." in name else factor.T @ factor
                identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
                losses.append(torch.linalg.matrix_norm(gram - identity))
            return self._orth_reg_weight * torch.stack(losses).mean()

    def after_step(self, step: int) -> None:
        for parameter in self._parameters.values():
            if parameter.grad is None:  # no row reached the layer; PEFT multiplies by it
                parameter.grad = torch.zeros_like(parameter)
        config = self._tuner.peft_config[ADAPTER]
        config.rank_pattern = {name: mask.tolist() for name, mask in self._masks.items()}
        self._tuner.update_and_allocate(step)
        for name, mask in self._masks.items():
            mask.copy_(torch.tensor(config.rank_pattern[name]))
        config.rank_pattern = None  # PEFT can't save a tuner without its `PeftModel` with one
        self._fill_statistics()

    def state(self) -> dict[str, Tensor]:
        """Smoothed sensitivities and uncertainties, and the masks.

        The sensitivities of a single step are computed afresh in the next one.
        """
        allocator = self._tuner.rankallocator
        return {
            **{f"sensitivity.{name}": allocator.exp_avg_ipt[name] for name in self._parameters},
            **{f"uncertainty.{name}": allocator.exp_avg_unc[name] for name in self._parameters},
            **{f"mask.{name}": mask for name, mask in self._masks.items()},
        }

    def start_from(self, adapter: Path) -> list[str]:
        """Raises a ModelError, since pruned ranks are not in an adapter."""
        raise ModelError(
            f"AdaLoRA can't start from {adapter}: its ranks were pruned",
            allowed="methods whose ranks stay",
            action="leave out init_from, or train another method",
        )

    def peft_format(self) -> tuple[PeftConfig, dict[str, Tensor]]:
        """The remaining ranks, listed in the config's pattern.

        Between two prunings, and in weights from before the last one, a pruned rank may have come
        back: E decides, not the last mask.
        """
        plain, state = super().peft_format()
        config: Any = copy.copy(plain)
        config.rank_pattern = {}
        for name in self._masks:
            kept = self._parameters[name].detach().view(-1) != 0
            short = name.removesuffix(f".{ADAPTER}")
            config.rank_pattern[short] = kept.tolist()
            for factor, index in (("E", (kept,)), ("A", (kept,)), ("B", (slice(None), kept))):
                key = f"model.{short}".replace(".lora_E", f".lora_{factor}")
                state[key] = state[key][index]
        return config, state

    def _fill_statistics(self) -> None:
        """Zeros for missing statistics, before the first step and after the allocator's end."""
        allocator = self._tuner.rankallocator
        for statistics in (allocator.ipt, allocator.exp_avg_ipt, allocator.exp_avg_unc):
            for name, parameter in self._parameters.items():
                if name not in statistics:
                    statistics[name] = torch.zeros_like(parameter)


def _config(settings: AdaLoraSettings, total: int) -> AdaLoraConfig:
    """PEFT's config, with its schedule in steps."""
    # The last pruning takes a step of its own.
    tinit, tfinal = int(settings.tinit * total), max(1, int(settings.tfinal * total))
    if tinit >= total - tfinal:
        raise TrainingError(
            f"AdaLoRA can't prune in a run of {total} optimiser steps: the first {tinit} "
            f"(method.tinit) and the last {tfinal} (method.tfinal) are left alone",
            allowed="at least one step between them",
            action="raise training.epochs, or lower tinit, tfinal, batches.rows or "
            "training.accumulation",
        )
    return AdaLoraConfig(
        init_r=settings.init_r,
        target_r=settings.target_r,
        tinit=tinit,
        tfinal=tfinal,
        deltaT=settings.delta_t,
        beta1=settings.beta1,
        beta2=settings.beta2,
        orth_reg_weight=settings.orth_reg_weight,
        total_step=total,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
    )


class AdaLora(PeftMethod):
    """AdaLoRA on all linear layers."""

    settings_type: ClassVar[type[MethodSettings]] = AdaLoraSettings

    def build_part(self, backbone: Any, context: AttachContext) -> AdaLoraPart:
        return AdaLoraPart(backbone, self.settings, context.seed, context.total_steps)
