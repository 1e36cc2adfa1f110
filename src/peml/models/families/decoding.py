"""Greedy decoding that ignores the generation settings in a base model's files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from peml.models.families.spelling import Spelling
from peml.models.families.stopping import Follow, cut_text, stopping_criteria


def own_generation(spelling: Spelling, config: Any) -> GenerationConfig:
    """The settings that replace a base model's ``generation_config.json``.

    Transformers would take every setting that a call leaves open from that file: lengths,
    penalties, stop strings, forced tokens. Only padding, start and end tokens are needed from it.
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
    follow: Follow | None = None,
) -> list[str | None]:
    """Decodes greedily, up to an end token or the first stop string.

    Args:
        model: A text-to-text model.
        inputs: The model's inputs, padded on the left for a decoder.
        given: Number of tokens at the start of each output row that are not generated.
        spelling: Converts tokens to texts.
        max_new_tokens: Longest text in tokens.
        stop: A text ends before the first of these strings.
        gaps: White space of each row's prompt that its text may begin with; empty: none.
        follow: Sees every token as it is generated, and ends rows.

    Returns:
        One text per row; None if its logits were NaN or infinite.
    """
    spelling = spelling.ending_at(stop)
    settings = own_generation(spelling, model.config)
    settings.max_new_tokens = max_new_tokens
    watch = _Watch(spelling.ends, given)
    tokens = model.generate(
        **inputs,
        generation_config=settings,
        logits_processor=LogitsProcessorList([watch]),
        stopping_criteria=stopping_criteria(spelling, stop, given, gaps, follow),
        synced_gpus=False,  # by default a sharded model's processes would count tokens together
    )
    generated = [spelling.read(row) for row in tokens[:, given:].tolist()]
    spaces = gaps or [""] * len(generated)
    texts = [cut_text(text, stop, gap) for text, gap in zip(generated, spaces, strict=True)]
    return [None if bad else text for bad, text in zip(watch.bad.tolist(), texts, strict=True)]


class _Watch(LogitsProcessor):
    """Marks the rows whose logits are NaN or infinite before the row has ended."""

    def __init__(self, ends: Sequence[int], given: int) -> None:
        self._ends = ends
        self._given = given
        self.bad = torch.zeros(1, dtype=torch.bool)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Returns the logits unchanged."""
        ends = torch.tensor(self._ends, device=input_ids.device)
        ended = torch.isin(input_ids[:, self._given :], ends).any(1)
        # Minus infinity alone is fine: some models exclude tokens that way.
        broken = (scores.isnan() | (scores == torch.inf)).any(1)
        unusable: Tensor = broken | ~scores.isfinite().any(1)
        self.bad = self.bad.to(unusable.device) | (unusable & ~ended)
        return scores
