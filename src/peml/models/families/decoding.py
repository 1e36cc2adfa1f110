"""Greedy decoding of the project's own, whatever a base model's files say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from peml.models.families.spelling import Spelling
from peml.models.families.stopping import cut_text, stopping_criteria


def own_generation(spelling: Spelling, config: Any) -> GenerationConfig:
    """What stands in place of a base model's ``generation_config.json``.

    Transformers fills every setting that a call leaves open from there: lengths, penalties, stop
    strings, forced tokens. Only padding, start and ends are facts about a model.

    Args:
        spelling: Knows padding and ends.
        config: The model's config, which says where an encoder-decoder's answers start.
    """
    tokenizer = spelling.tokenizer
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(spelling.ends),
        decoder_start_token_id=getattr(config, "decoder_start_token_id", None),
    )


def decode(
    model: Any,
    inputs: dict[str, Any],
    given: int,
    spelling: Spelling,
    *,
    max_new_tokens: int,
    stop: Sequence[str],
    gaps: Sequence[str] = (),
) -> list[str | None]:
    """Decodes greedily, up to an end token or the first stop string.

    Args:
        model: A text-to-text model.
        inputs: Of the model, padded on the left for a decoder.
        given: Tokens at the start of each row of the output that are not generated.
        spelling: Reads answers.
        max_new_tokens: Longest text in tokens.
        stop: A text ends before the first of these.
        gaps: White space of each row's prompt that its text may begin with; none: no such space.

    Returns:
        A text a row; None where the model gave no numbers to decide by.
    """
    reading = spelling.ending_at(stop)
    own = own_generation(reading, model.config)
    own.max_new_tokens = max_new_tokens
    watch = _Watch(reading.ends, given)
    tokens = model.generate(
        **inputs,
        generation_config=own,
        logits_processor=LogitsProcessorList([watch]),
        stopping_criteria=stopping_criteria(reading, stop, given, gaps),
    )
    said = [reading.read(row) for row in tokens[:, given:].tolist()]
    spaces = gaps or [""] * len(said)
    texts = [cut_text(text, stop, gap) for text, gap in zip(said, spaces, strict=True)]
    return [None if bad else text for bad, text in zip(watch.bad.tolist(), texts, strict=True)]


class _Watch(LogitsProcessor):
    """Notes the rows whose logits are NaN or infinite while they are not at their end."""

    def __init__(self, ends: Sequence[int], given: int) -> None:
        self._ends = ends
        self._given = given
        self.bad = torch.zeros(1, dtype=torch.bool)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Leaves the logits as they are."""
        ends = torch.tensor(self._ends, device=input_ids.device)
        over = torch.isin(input_ids[:, self._given :], ends).any(1)
        # Some models set what they must not say to minus infinity.
        unusable: Tensor = (scores.isnan() | (scores == torch.inf)).any(1) | ~scores.isfinite().any(
            1
        )
        self.bad = self.bad.to(unusable.device) | (unusable & ~over)
        return scores
