"""Encoder-decoder models: each distinct input is encoded once for all its options."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peml.data.batch import IGNORED
from peml.evaluation.scoring.requests import Request, my_batches, to_batch
from peml.models import TaskModel
from peml.models.families.decoding import behind_start
from peml.models.logits import Positions, states_of
from peml.models.prompt import build_inputs


@torch.no_grad()
def score_decoded(base: TaskModel, requests: Sequence[Request], tokens: int) -> Tensor:
    """Log-likelihoods of the options, (requests,) float64.

    A batch has at most ``tokens`` tokens, padding included, for encoder and decoder alike.
    """
    totals = torch.zeros(len(requests), dtype=torch.float64)
    by_input: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for index, request in enumerate(requests):
        by_input.setdefault((request.task_id, request.context), []).append(index)
    inputs = list(by_input.values())
    for batch in my_batches(base, [len(requests[first].context) for first, *_ in inputs], tokens):
        _score(base, requests, [inputs[index] for index in batch], tokens, totals)
    return base.world.sum_of(totals, base.device)


def _score(
    base: TaskModel,
    requests: Sequence[Request],
    by_input: list[list[int]],
    tokens: int,
    totals: Tensor,
) -> None:
    """Encodes a batch of inputs and scores all their options.

    `by_input` has the indices of each input's requests; `totals`, (requests,), receives the
    log-likelihoods.
    """
    model, prompt = base.backbone, base.prompt.vectors
    sources = to_batch(base, [requests[indices[0]] for indices in by_input]).to(base.device)
    base.routing.set(sources.task_ids)
    inputs = build_inputs(model, sources, prompt)
    encoded = model.get_encoder()(**inputs)
    waiting = [(source, index) for source, indices in enumerate(by_input) for index in indices]
    waiting.sort(key=lambda pair: -len(requests[pair[1]].option))
    while waiting:
        width = max(sources.input_ids.shape[1], len(requests[waiting[0][1]].option))
        count = max(1, tokens // width)
        batch, waiting = waiting[:count], waiting[count:]
        rows = torch.tensor([source for source, _ in batch], device=base.device)
        labels = nn.utils.rnn.pad_sequence(
            [torch.tensor(requests[index].option) for _, index in batch], True, IGNORED
        ).to(base.device)
        base.routing.set(sources.task_ids[rows])
        answers, places = (labels != IGNORED).nonzero(as_tuple=True)
        positions = Positions(answers, places, everywhere=base.family.logits_everywhere)
        nll = positions.nll(
            model,
            labels[answers, places],
            encoder_outputs=states_of(encoded, rows),
            attention_mask=inputs["attention_mask"][rows],
            decoder_input_ids=behind_start(labels, model.config),
            use_cache=False,
        )
        summed = nll.new_zeros(len(batch)).index_add(0, answers, nll)
        totals[[index for _, index in batch]] = -summed.double().cpu()
