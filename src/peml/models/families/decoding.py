"""Greedy decoding that ignores the generation settings in a base model's files."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from peml.errors import ModelError
from peml.models.families.spelling import Spelling
from peml.models.families.stopping import Limits, cut_text, stopping_criteria


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
        decoder_start_token_id=start_of_answers(config),
    )


def start_of_answers(config: Any) -> int | None:
    """The token before an encoder-decoder's answers: its config's, else ``bos``.

    None for a decoder, whose answers follow the prompt.

    Raises:
        ModelError: The config names neither.
    """
    if not getattr(config, "is_encoder_decoder", False):
        return None
    names = ("decoder_start_token_id", "bos_token_id")
    for token in (getattr(config, name, None) for name in names):
        if token is not None:
            return int(token)
    raise ModelError(
        "the model's config names no token that answers start behind",
        allowed="an encoder-decoder with decoder_start_token_id (or bos_token_id) in config.json",
        action="add decoder_start_token_id to config.json, with the value that the model was "
        "trained with",
    )


def behind_start(labels: Tensor, config: Any) -> Tensor:
    """The decoder's inputs for these labels: shifted by one, after the start token of generation.

    Transformers' own shift exists in some models only, and mBART's starts with a row's last token.

    `labels` are (rows, length), -100 behind a row's end.
    """
    start = labels.new_full((len(labels), 1), cast(int, start_of_answers(config)))
    return torch.cat([start, labels[:, :-1]], 1).clamp(min=0)


def decode(
    model: Any, inputs: dict[str, Any], given: int, spelling: Spelling, limits: Limits
) -> list[str | None]:
    """Decodes greedily, up to an end token or the first stop string.

    The first ``given`` tokens of each output row are not generated. A decoder's inputs are padded
    on the left.

    Returns:
        One text per row; None if its logits were NaN or infinite.
    """
    stop, gaps = limits.get("stop", ()), limits.get("gaps", ())
    spelling = spelling.ending_at(stop)
    settings = own_generation(spelling, model.config)
    settings.max_new_tokens = limits["max_new_tokens"]
    watch = _Watch(spelling.ends, given)
    with closing_up(model):
        tokens = model.generate(
            **inputs,
            generation_config=settings,
            logits_processor=LogitsProcessorList([watch]),
            stopping_criteria=stopping_criteria(spelling, given, limits),
            synced_gpus=False,  # by default a sharded model's processes would count tokens together
        )
    generated = [spelling.read(row) for row in tokens[:, given:].tolist()]
    spaces = gaps or [""] * len(generated)
    texts = [cut_text(text, stop, gap) for text, gap in zip(generated, spaces, strict=True)]
    return [None if bad else text for bad, text in zip(watch.bad.tolist(), texts, strict=True)]


def closing_up(model: Any) -> AbstractContextManager[Any]:
    """Gives a model's output layer contiguous hidden states inside the block.

    A prompt's last states are a view of all. For such a view, torch multiplies each row with a
    weight of its own, and in bfloat16 on a CPU it copies the output layer for each row.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Module):
        return nullcontext()
    return layer.register_forward_pre_hook(lambda _, given: (given[0].contiguous(), *given[1:]))


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
        unusable = are_unusable(scores)
        self.bad = self.bad.to(unusable.device) | (unusable & ~ended)
        return scores


def are_unusable(logits: Tensor) -> Tensor:
    """Which rows of (rows, vocabulary) are NaN or infinite, (rows,).

    Minus infinity alone is fine: some models exclude tokens that way.
    """
    broken = (logits.isnan() | (logits == torch.inf)).any(1)
    return broken | ~logits.isfinite().any(1)
