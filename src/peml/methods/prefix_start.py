"""Where a prefix starts on a model: quiet, at zero, at random, or at a text."""

from __future__ import annotations

import torch

from peml.errors import ModelError
from peml.injection import PrefixInjection, measure_start, read_rows
from peml.methods.base import AttachContext
from peml.models import TaskModel
from peml.prefix import PrefixBaseSettings, PrefixStart

__all__ = ["read_start"]


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
        injection: Of the model.
        settings: Which start.
        length: Positions of the prefix, the longest where it is searched.
        context: Real rows to measure on, and the seed.

    Raises:
        ModelError: The text has fewer tokens than the prefix has positions.
    """
    start = measure_start(injection, context.calibrate, quietness=settings.quietness, radius=1.0)
    if settings.start == "zero":
        return start.zeroed()
    if settings.start == "random":
        return start.drawn(length, torch.Generator().manual_seed(context.seed))
    if settings.text is None:
        return start
    tokens = torch.tensor([model.family.tokenizer(settings.text, verbose=False)["input_ids"]])
    count = tokens.shape[1]
    if count < length:
        raise ModelError(
            f"the text of the prefix has {count} tokens, the prefix up to {length} positions",
            allowed=f"a text of {length} tokens or more",
            action="write a longer text, or lower the prefix's length",
        )
    tokens = tokens[:, :length].to(model.device)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if model.backbone.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens

    def run() -> None:
        model.eval()
        model.backbone(**inputs)

    return start.at(read_rows(injection, run))
