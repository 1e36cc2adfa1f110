"""Encoder-decoder models: a distinct input is encoded once, its options decoded against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from peml.evaluation.scoring.requests import Request, to_batch
from peml.models import TaskModel
from peml.models.logits import Positions
from peml.models.prompt import build_inputs

_IGNORED = -100


@torch.no_grad()
def score_decoded(base: TaskModel, requests: Sequence[Request], tokens: int) -> Tensor:
    """Log-likelihoods of the options, (requests,) float64.

    Args:
        base: The model, with whatever is attached to it.
        requests: Options and their inputs.
        tokens: Most tokens of a batch, padding included, of an encoder's pass as of a decoder's.
    """
    totals = torch.zeros(len(requests), dtype=torch.float64)
    by_input: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for index, request in enumerate(requests):
        by_input.setdefault((request.task_id, request.context), []).append(index)
    asking = sorted(by_input.values(), key=lambda indices: -len(requests[indices[0]].context))
    for batch in _cut(asking, [len(requests[indices[0]].context) for indices in asking], tokens):
        _score(base, requests, batch, tokens, totals)
    return totals


def _cut(asking: list[list[int]], lengths: list[int], tokens: int) -> Iterator[list[list[int]]]:
    """Inputs, longest first, in batches within the budget."""
    begin = 0
    for at in range(1, len(asking) + 1):
        if at == len(asking) or (at - begin + 1) * lengths[begin] > tokens:
            yield asking[begin:at]
            begin = at


def _score(
    base: TaskModel,
    requests: Sequence[Request],
    asking: list[list[int]],
    tokens: int,
    totals: Tensor,
) -> None:
    """Encodes some inputs and decodes all options asked of them.

    Args:
        base: The model.
        requests: All requests.
        asking: Requests of each input.
        tokens: Most tokens of a pass.
        totals: Where the log-likelihoods go, (requests,).
    """
    model, prompt = base.backbone, base.prompt.vectors
    sources = to_batch(base, [requests[indices[0]] for indices in asking]).to(base.device)
    base.routing.set(sources.task_ids)
    inputs = build_inputs(model, sources, prompt)
    encoded = model.get_encoder()(**inputs).last_hidden_state
    wanted = [(source, index) for source, indices in enumerate(asking) for index in indices]
    wanted.sort(key=lambda pair: -len(requests[pair[1]].option))
    while wanted:
        width = max(sources.input_ids.shape[1], len(requests[wanted[0][1]].option))
        count = max(1, tokens // width)
        now, wanted = wanted[:count], wanted[count:]
        rows = torch.tensor([source for source, _ in now], device=base.device)
        labels = nn.utils.rnn.pad_sequence(
            [torch.tensor(requests[index].option) for _, index in now], True, _IGNORED
        ).to(base.device)
        base.routing.set(sources.task_ids[rows])
        answers, places = (labels != _IGNORED).nonzero(as_tuple=True)
        asked = Positions(answers, places, everywhere=base.family.logits_everywhere)
        logits = asked.logits(
            model,
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded[rows]),
            attention_mask=inputs["attention_mask"][rows],
            decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels=labels),
            use_cache=False,
        )
        nll = nn.functional.cross_entropy(logits.float(), labels[answers, places], reduction="none")
        summed = nll.new_zeros(len(now)).index_add(0, answers, nll)
        totals[[index for _, index in now]] = -summed.double().cpu()
