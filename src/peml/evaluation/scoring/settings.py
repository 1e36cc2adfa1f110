"""How options are scored by their likelihood."""

from __future__ import annotations

from pydantic import Field

from peml.settings import Settings
from peml.tasks import Normalisation


class ScoringSettings(Settings):
    """What the score of an option is, for text-to-text models."""

    normalisation: Normalisation = Field(
        "none",
        description="An option's log-likelihood as it is (none), divided by its tokens or by the "
        "bytes of its text, or less its log-likelihood after the unconditional prompt (pmi); a "
        "task's own normalisation comes first. A regression's expected score always uses plain "
        "likelihoods.",
    )
    unconditional: str = Field(
        "Answer:", description="What pmi puts in place of the prompt.", min_length=1
    )
    end: bool = Field(
        True,
        description="Whether the end of text after an option is scored too, as it is trained. "
        "Without it an option of one token takes a single prediction.",
    )
    share: bool = Field(
        True,
        description="Compute what options and rows have in common once, where the model allows "
        "it. The scores are the same; false is there to compare.",
    )
