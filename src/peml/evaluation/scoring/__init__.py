"""Exact likelihoods of answer options; common prefixes of tokens are computed once."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.evaluation.scoring.alone import score_alone
    from peml.evaluation.scoring.options import score_options, score_requests, score_rows
    from peml.evaluation.scoring.requests import Request
    from peml.evaluation.scoring.seq2seq import score_decoded
    from peml.evaluation.scoring.settings import ScoringSettings
    from peml.evaluation.scoring.support import sharing_key, sharing_problem
    from peml.evaluation.scoring.trees import score_trees
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "Request",
    "ScoringSettings",
    "score_alone",
    "score_decoded",
    "score_options",
    "score_requests",
    "score_rows",
    "score_trees",
    "sharing_key",
    "sharing_problem",
]
