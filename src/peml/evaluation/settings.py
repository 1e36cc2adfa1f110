"""How a model is evaluated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from peml.evaluation.scoring.settings import ScoringSettings
from peml.settings import Settings
from peml.tasks import Task


class EvaluationSettings(Settings):
    """Batches, scoring, generation and ablations of an evaluation."""

    tokens: int = Field(8192, description="Maximum tokens per batch, padding included.", ge=16)
    max_new_tokens: int = Field(
        32,
        description="Longest generated text in tokens, for tasks that set no limit themselves.",
        ge=1,
    )
    scoring: ScoringSettings = Field(
        default_factory=lambda: ScoringSettings(),
        description="How text-to-text models score the options of a row.",
    )
    split: Literal["reported", "development"] = Field(
        "reported",
        description="Split the finished model is scored on. Use development for runs that only "
        "choose settings, so that the reported split is never used to select anything.",
    )
    ablations: bool = Field(
        True, description="Also score every task with each part (prefix, LoRA) switched off."
    )

    def longest(self, task: Task) -> int:
        """Longest text to generate for a task, in tokens: its own limit, else the default."""
        return task.max_new_tokens or self.max_new_tokens
