"""The ``training`` section of a config."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from peml.settings import Settings
from peml.training.balancing.settings import BalancingSettings


class TrainingSettings(Settings):
    """Length, learning rates, checkpoints and stopping of training."""

    epochs: float = Field(3.0, description="Passes over the training mixture.", gt=0)
    learning_rates: dict[str, float] = Field(
        default_factory=dict,
        description="Peak rate of a parameter group (lora, prefix, architecture, heads, "
        "balancing); a group left out keeps its default.",
    )
    learning_rate_factor: float = Field(
        1.0,
        description="Multiplies every group's rate but the architecture's; a learning-rate grid "
        "varies it.",
        gt=0,
    )
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="Decay after the warm-up; architecture parameters don't decay."
    )
    warmup: float = Field(0.06, description="Share of the steps that warm up.", ge=0, lt=1)
    weight_decay: float = Field(0.0, description="AdamW's decoupled weight decay.", ge=0)
    clip: float = Field(1.0, description="Largest gradient norm.", gt=0)
    accumulation: int = Field(1, description="Batches per optimiser step.", ge=1)
    balancing: BalancingSettings = Field(
        default_factory=lambda: BalancingSettings(), description="Weights of the tasks' losses."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 if the GPU supports it, else fp32."
    )
    evaluate_every: int | None = Field(
        None, description="Steps between development evaluations; default: once per epoch.", ge=1
    )
    checkpoint_every: int | None = Field(
        None, description="Steps between checkpoints; default: at every evaluation.", ge=1
    )
    keep_checkpoints: int = Field(2, description="Number of newest checkpoints to keep.", ge=1)
    keep: Literal["best", "last"] = Field(
        "best",
        description="Final weights: those with the best mean development metric, or the last.",
    )
    patience: int | None = Field(
        None,
        description="Stop after this many evaluations without a better mean; default: never.",
        ge=1,
    )
    log_every: int = Field(10, description="Steps between log lines.", ge=1)
    explode_at: float = Field(1e4, description="A loss above this ends the run as diverged.", gt=0)
