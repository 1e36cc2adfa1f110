"""How a model is evaluated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from peml.evaluation.scoring.settings import ScoringSettings
from peml.settings import Settings
from peml.tasks import Task


class EvaluationSettings(Settings):
    """Batches, scoring, generation and ablations of an evaluation."""

    tokens: int = Field(8192, description="Most tokens of a batch, padding included.", ge=16)
    max_new_tokens: int = Field(
        32, description="Longest generated text of tasks that don't say, in tokens.", ge=1
    )
    scoring: ScoringSettings = Field(
        default_factory=lambda: ScoringSettings(),
        description="How text-to-text models score the options of a row.",
    )
    split: Literal["reported", "development"] = Field(
        "reported",
        description="What the finished model is scored on; development for runs that only choose "
        "settings, so that the reported split chooses nothing.",
    )
    ablations: bool = Field(
        True, description="Also score every task with each part (prefix, LoRA) switched off."
    )

    def longest(self, task: Task) -> int:
        """Longest text to generate for a task, in tokens: its own limit, or else the default."""
        return task.max_new_tokens or self.max_new_tokens
