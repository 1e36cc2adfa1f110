"""A request to a model, the likelihood of an option after its context; and the plain way to it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peml.data.batch import IGNORED, BatchFacts, TaskBatch
from peml.data.batching import Collator
from peml.data.planning import plan_batches
from peml.models import TaskModel
from peml.models.limits import pass_limits


@dataclass(frozen=True, slots=True)
class Request:
    """An option to score.

    `context` has the tokens before the option; for an encoder-decoder, the encoder's input.
    """

    context: tuple[int, ...]
    option: tuple[int, ...]
    task_id: int


def is_seq2seq(base: TaskModel) -> bool:
    """Whether the model is an encoder-decoder, whose encoder reads the context."""
    return bool(base.backbone.config.is_encoder_decoder)


def my_batches(base: TaskModel, lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices of sequences in batches of at most ``tokens``, padding included.

    Those that this process computes, longest first.
    """
    tokens = min(tokens, pass_limits(base.device).tokens)
    sizes = np.array(lengths, np.int32)
    for batch in plan_batches(sizes, np.ones_like(sizes), tokens)[base.world.part]:
        yield batch.tolist()


def to_batch(base: TaskModel, requests: Sequence[Request]) -> TaskBatch:
    """The requests as a batch of one sequence per request, with labels on the options."""
    joined = not is_seq2seq(base)
    inputs, labels = [], []
    for request in requests:
        context, option = list(request.context), list(request.option)
        inputs.append([context + option if joined else context])
        labels.append([[IGNORED] * len(context) + option if joined else option])
    rows: dict[str, list[Any]] = {
        "input_ids": inputs,
        "labels": labels,
        "token_type_ids": [[] for _ in requests],
        "targets": [[1.0] for _ in requests],
    }
    collate = Collator(base.family.tokenizer.pad_token_id)
    task_ids = [request.task_id for request in requests]
    batch = collate(rows, task_ids, np.arange(len(requests)))
    scored = [
        (row, place)
        for row, (each,) in enumerate(labels)
        for place, label in enumerate(each)
        if label != IGNORED
    ]
    facts = BatchFacts(
        tokens=sum(len(each) for (each,) in inputs),
        task_rows=Counter(task_ids),
        examples=tuple(zip(task_ids, range(len(requests)), strict=True)),
        scored=torch.tensor(scored).T,
        first_scored=min(place for _, place in scored),
    )
    return replace(batch, facts=facts)


@torch.no_grad()
def score_alone(base: TaskModel, requests: Sequence[Request], tokens: int) -> Tensor:
    """Log-likelihoods of the options, (requests,) float64, with one sequence per option.

    The reference that shared contexts are tested against.
    """
    totals = torch.zeros(len(requests), dtype=torch.float64)
    joined = not is_seq2seq(base)
    lengths = [len(r.context) + (len(r.option) if joined else 0) for r in requests]
    with base.divided():
        for chosen in my_batches(base, lengths, tokens):
            batch = to_batch(base, [requests[i] for i in chosen]).to(base.device)
            totals[chosen] = base(batch).scores.double().cpu()
    return base.world.sum_of(totals, base.device)
