"""Scores of every row's options, for text-to-text models."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peml.data.encoding import EncodedSplit
from peml.errors import DataError
from peml.evaluation.scoring.requests import Request, is_seq2seq, score_alone
from peml.evaluation.scoring.seq2seq import score_decoded
from peml.evaluation.scoring.support import sharing_problem
from peml.evaluation.scoring.trees import score_trees
from peml.evaluation.settings import ScoringSettings
from peml.models import Spelling, TaskModel
from peml.tasks import Example, Task
from peml.tasks.kinds import Normalisation

_BATCHES_AT_ONCE = 64
"""Rows are read, and searched for common beginnings, this many batches at a time."""


def score_requests(
    base: TaskModel,
    requests: Sequence[Request],
    tokens: int,
    *,
    share: bool = True,
    notes: set[str] | None = None,
) -> Tensor:
    """Log-likelihoods of options after their contexts, (requests,) float64; tasks may be mixed.

    A batch has at most so many `tokens`, padding and cached ones included. With `share`, common
    beginnings (or inputs of an encoder) are computed once; if the model can't do this, the reason
    is warned about and added to `notes`.

    Raises:
        DataError: An option has no tokens to score.
    """
    for request in requests:
        if len(request.context) + len(request.option) < 2 or not request.option:
            raise DataError(
                f"an option of {len(request.option)} tokens after {len(request.context)} tokens "
                "has no likelihood",
                allowed="one token or more, after a context",
                action="correct the option, or set evaluation.scoring.end: true",
            )
    if not requests or not share:
        return score_alone(base, requests, tokens)
    if is_seq2seq(base):
        return score_decoded(base, requests, tokens)
    longest = max(len(request.context) + len(request.option) for request in requests)
    problem = sharing_problem(base, longest)
    if problem is not None:
        note = f"options are scored one by one, which is slower: {problem}"
        if notes is None or note not in notes:  # long splits come in pieces: warn once
            warnings.warn(note, stacklevel=2)
        if notes is not None:
            notes.add(note)
        return score_alone(base, requests, tokens)
    return score_trees(base, requests, tokens)


def score_options(
    base: TaskModel,
    split: EncodedSplit,
    task_id: int,
    settings: ScoringSettings,
    tokens: int,
    notes: set[str] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yields each row's number and the scores of its options, (options,).

    The split is encoded for scoring; `notes` as for `score_requests`.
    """
    for rows in _windows(split, tokens):
        fetched = split.rows.read(rows)
        encoded = list(zip(fetched["input_ids"], fetched["labels"], strict=True))
        scores = score_rows(base, encoded, [task_id] * len(rows), settings, tokens, notes)
        yield from zip(rows.tolist(), scores, strict=True)


def score_rows(
    base: TaskModel,
    rows: Sequence[tuple[list[list[int]], list[list[int]]]],
    task_ids: Sequence[int],
    settings: ScoringSettings,
    tokens: int,
    notes: set[str] | None = None,
) -> list[Tensor]:
    """Scores of the options of rows that may be of several tasks, (options,) each.

    `rows` has token ids and labels of each row's sequences; the rest is as for `score_options`.
    """
    rules = {task_id: _Rule.of(base, task_id, settings) for task_id in set(task_ids)}
    options = [
        _requests(base, *row, task_id, rules[task_id].unscored)
        for row, task_id in zip(rows, task_ids, strict=True)
    ]
    neutral = [
        Request(rules[request.task_id].neutral, request.option, request.task_id)
        for row in options
        for request in row
        if rules[request.task_id].kind == "pmi"
    ]
    conditional = [request for row in options for request in row]
    likelihoods = score_requests(
        base, [*conditional, *neutral], tokens, share=settings.share, notes=notes
    )
    given, unconditional = likelihoods[: len(conditional)], likelihoods[len(conditional) :]
    scores = []
    for row, values in zip(options, given.split([len(row) for row in options]), strict=True):
        kind = rules[row[0].task_id].kind
        beside = None
        if kind == "pmi":
            beside, unconditional = unconditional[: len(row)], unconditional[len(row) :]
        scores.append(normalise(values, row, kind, base.family.spelling, beside))
    return scores


@dataclass(frozen=True, slots=True)
class _Rule:
    """How the options of one task are scored: see `ScoringSettings`."""

    kind: Normalisation
    neutral: tuple[int, ...]
    unscored: int | None

    @classmethod
    def of(cls, base: TaskModel, task_id: int, settings: ScoringSettings) -> _Rule:
        task = base.tasks[task_id]
        kind = task.normalisation or settings.normalisation
        if task.type.has_scale:
            kind = "none"
        neutral = _unconditional(base, task, settings.unconditional) if kind == "pmi" else ()
        return cls(kind, neutral, None if settings.end else base.family.end_token(task))


def _windows(split: EncodedSplit, tokens: int) -> Iterator[np.ndarray[Any, Any]]:
    """Row numbers in order, `_BATCHES_AT_ONCE` batches at a time."""
    window = (split.tokens.cumsum() - split.tokens) // (tokens * _BATCHES_AT_ONCE)
    for number in np.unique(window):
        yield np.flatnonzero(window == number)


def _requests(
    base: TaskModel,
    ids: list[list[int]],
    labels: list[list[int]],
    task_id: int,
    unscored: int | None,
) -> list[Request]:
    """The options of one encoded row, without the token `unscored` at their ends."""
    requests = []
    for tokens, scored in zip(ids, labels, strict=True):
        option = [token for token in scored if token != -100]
        context = tokens if is_seq2seq(base) else tokens[: len(tokens) - len(option)]
        if option[-1] == unscored:
            option = option[:-1]
        requests.append(Request(tuple(context), tuple(option), task_id))
    return requests


def _unconditional(base: TaskModel, task: Task, prompt: str) -> tuple[int, ...]:
    """Tokens of the prompt that holds nothing of the row."""
    turns = () if task.chat is None else tuple(task.chat.ask(prompt))
    example = Example(0, (prompt,), prompt, options=(), label="", turns=turns)
    (sequence,) = base.family.encode(task, example, "generate")
    return tuple(sequence.input_ids)


def normalise(
    likelihoods: Tensor,
    requests: Sequence[Request],
    kind: Normalisation,
    spelling: Spelling,
    unconditional: Tensor | None = None,
) -> Tensor:
    """Scores of options, (requests,).

    Args:
        likelihoods: Log-likelihoods, (requests,).
        requests: The options.
        kind: What they are divided by, or what is subtracted from them.
        spelling: Decodes the options for ``bytes``: UTF-8 bytes without the end of text and
            without spaces around.
        unconditional: For ``pmi``: log-likelihoods of the options after the unconditional prompt.

    Raises:
        DataError: With ``bytes``, an option has no text.
    """
    if kind == "none":
        return likelihoods
    if kind == "pmi":
        if unconditional is None:
            raise AssertionError("pmi needs the options' likelihoods after another prompt")
        return likelihoods - unconditional
    if kind == "tokens":
        # Without a context, the first token is not predicted.
        sizes = [len(r.option) - (not r.context) for r in requests]
    else:
        sizes = [_bytes(request, spelling) for request in requests]
    return likelihoods / torch.tensor(sizes).to(likelihoods)


def _bytes(request: Request, spelling: Spelling) -> int:
    text = spelling.read(request.option).strip()
    if not text:
        raise DataError(
            f"the option with the tokens {list(request.option)} has no text, so its score can't "
            "be divided by its bytes",
            allowed="options with a text, for evaluation.scoring.normalisation: bytes",
            action="correct the option, or choose another normalisation",
        )
    return len(text.encode("utf-8"))
