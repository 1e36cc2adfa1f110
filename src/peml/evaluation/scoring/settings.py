"""How options are scored by their likelihood."""

from __future__ import annotations

from pydantic import Field

from peml.settings import Settings
from peml.tasks import Normalisation


class ScoringSettings(Settings):
    """How text-to-text models score an option."""

    normalisation: Normalisation = Field(
        "none",
        description="An option's score: its log-likelihood (none), divided by the number of its "
        "tokens (tokens) or of its text's bytes (bytes), or minus its log-likelihood after the "
        "unconditional prompt (pmi). A task's own normalisation takes precedence. Regression "
        "always uses plain likelihoods.",
    )
    unconditional: str = Field(
        "Answer:", description="The prompt that pmi uses in place of the row's.", min_length=1
    )
    end: bool = Field(
        True,
        description="Also score the end-of-text token after an option, as in training. Without "
        "it, an option of one token needs a single prediction.",
    )
    share: bool = Field(
        True,
        description="Compute the tokens that options and rows have in common once, if the model "
        "allows it. The scores are the same; false is for comparison.",
    )
