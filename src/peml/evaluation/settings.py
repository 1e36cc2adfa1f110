"""How a model is evaluated."""

from typing import Literal

from pydantic import Field

from peml.settings import Settings
from peml.tasks import Task
from peml.tasks.kinds import Normalisation


class ScoringSettings(Settings):
    """How text-to-text models score an option."""

    normalisation: Normalisation = "none"
    """none: an option's log-likelihood as it is; tokens or bytes: divided by its number of tokens,
    or of bytes of its text; pmi: minus its log-likelihood after the unconditional prompt. A task's
    own normalisation overrides this. The expected score of a regression always uses plain
    likelihoods."""
    unconditional: str = Field("Answer:", min_length=1)
    """pmi: text that replaces the prompt."""
    end: bool = True
    """Also score the end of text after an option, as in training. Without it, an option of one
    token needs a single prediction."""
    share: bool = True
    """Compute the context that options and rows share once, if the model allows it. The scores are
    the same; `false` is for comparison."""


class EvaluationSettings(Settings):
    """Batches, scoring, generation and ablations of an evaluation."""

    tokens: int = Field(8192, ge=16)
    """Maximum tokens of a batch, padding included. On a CPU at most 1,024 are scored at once, which
    is faster there; texts are generated in batches of this size."""
    max_new_tokens: int = Field(32, ge=1)
    """Maximum length of a generated text in tokens, for tasks without a limit of their own."""
    scoring: ScoringSettings = Field(default_factory=lambda: ScoringSettings())
    """How text-to-text models score the options of a row."""
    split: Literal["reported", "development"] = "reported"
    """Split on which the finished model is scored. `development` is for runs that only select
    settings, so that the reported split is never used to select anything."""
    ablations: bool = True
    """Also score every task with each part (prefix, LoRA) switched off."""

    def longest(self, task: Task) -> int:
        """Longest text to generate for a task, in tokens: its own limit, else the default."""
        return task.max_new_tokens or self.max_new_tokens
