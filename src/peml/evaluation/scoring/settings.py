"""How options are scored by their likelihood."""

from __future__ import annotations

from pydantic import Field

from peml.settings import Settings
from peml.tasks import Normalisation


class ScoringSettings(Settings):
    """How text-to-text models score an option."""

    normalisation: Normalisation = Field(
        "none",
        description="none: an option's log-likelihood as it is; tokens or bytes: divided by its "
        "number of tokens, or of bytes of its text; pmi: minus its log-likelihood after the "
        "unconditional prompt. A task's own normalisation overrides this. The expected score of "
        "a regression always uses plain likelihoods.",
    )
    unconditional: str = Field(
        "Answer:", description="pmi: text that replaces the prompt.", min_length=1
    )
    end: bool = Field(
        True,
        description="Also score the end of text after an option, as in training. Without it, an "
        "option of one token needs a single prediction.",
    )
    share: bool = Field(
        True,
        description="Compute the context that options and rows share once, if the model allows "
        "it. The scores are the same; `false` is for comparison.",
    )
