"""One sequence per option: the plain way, and the reference that sharing is tested against."""

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from peml.evaluation.scoring.requests import Request, in_batches, is_seq2seq, to_batch
from peml.models import TaskModel


@torch.no_grad()
def score_alone(base: TaskModel, requests: Sequence[Request], tokens: int) -> Tensor:
    """Log-likelihoods of the options, (requests,) float64, with one sequence per option."""
    totals = torch.zeros(len(requests), dtype=torch.float64)
    joined = not is_seq2seq(base)
    lengths = [len(r.context) + (len(r.option) if joined else 0) for r in requests]
    with base.divided():
        for chosen in islice(in_batches(lengths, tokens), base.world.rank, None, base.world.size):
            batch = to_batch(base, [requests[i] for i in chosen]).to(base.device)
            totals[chosen] = base(batch).scores.double().cpu()
    return base.world.sum_of(totals, base.device)
