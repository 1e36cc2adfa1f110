"""Exact likelihoods of answer options, with what they share computed once."""

from peml.evaluation.scoring.alone import score_alone
from peml.evaluation.scoring.options import score_options, score_requests
from peml.evaluation.scoring.requests import Request
from peml.evaluation.scoring.seq2seq import score_decoded
from peml.evaluation.scoring.settings import ScoringSettings
from peml.evaluation.scoring.support import sharing_problem
from peml.evaluation.scoring.trees import score_trees

__all__ = [
    "Request",
    "ScoringSettings",
    "score_alone",
    "score_decoded",
    "score_options",
    "score_requests",
    "score_trees",
    "sharing_problem",
]
