"""Where a prefix starts on a model: quiet, or at a text."""

from __future__ import annotations

import torch
from torch import Tensor

from peml.errors import ModelError
from peml.injection import PrefixInjection, measure_start, read_rows
from peml.methods.base import AttachContext
from peml.models import TaskModel
from peml.prefix import PrefixBaseSettings, PrefixStart


def read_start(
    model: TaskModel,
    injection: PrefixInjection,
    settings: PrefixBaseSettings,
    length: int,
    context: AttachContext,
) -> PrefixStart:
    """The start that the settings ask for, with radii in the model's own units.

    Args:
        model: The frozen model, with nothing but the injection attached.
        injection: Where the prefix goes.
        settings: Which start.
        length: Positions of the prefix, the longest where it is searched.
        context: Real rows to measure on, and the seed.

    Raises:
        ModelError: The text has fewer tokens than the prefix has positions.
    """
    start = measure_start(injection, context.calibrate, quietness=settings.quietness, radius=1.0)
    if settings.start != "text":
        return start
    return start.at(_text_rows(model, injection, _tokens(model, settings, length)))


def _tokens(model: TaskModel, settings: PrefixBaseSettings, length: int) -> Tensor:
    """The text's first tokens, (1, length)."""
    tokens = torch.tensor([model.family.tokenizer(settings.text, verbose=False)["input_ids"]])
    if tokens.shape[1] < length:
        raise ModelError(
            f"the text of the prefix has {tokens.shape[1]} tokens, the prefix up to {length} "
            "positions",
            allowed=f"a text of {length} tokens or more",
            action="write a longer text, or lower the prefix's length",
        )
    return tokens[:, :length].to(model.device)


def _text_rows(model: TaskModel, injection: PrefixInjection, tokens: Tensor) -> Tensor:
    """The model's keys and values of a text."""
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if model.backbone.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens

    def run() -> None:
        model.eval()
        model.backbone(**inputs)

    return read_rows(injection, run).float().cpu()
