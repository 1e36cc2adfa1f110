"""Where a prefix starts on a model: quiet, at zero, at random, or at a text."""

from __future__ import annotations

import torch
from torch import Tensor

from peml.errors import ModelError
from peml.injection import PrefixInjection, measure_start, read_rows
from peml.methods.base import AttachContext
from peml.methods.prefix.place import PrefixPlace
from peml.methods.prefix.prompt import draw_embeddings, embed_tokens
from peml.models import TaskModel
from peml.prefix import PrefixBaseSettings, PrefixStart

# Embeddings that the usual norm is read from; a vocabulary may hold hundreds of thousands.
_SAMPLE = 1000


def read_start(
    model: TaskModel,
    place: PrefixPlace,
    settings: PrefixBaseSettings,
    length: int,
    context: AttachContext,
) -> PrefixStart:
    """The start that the settings ask for, with radii in the model's own units.

    Args:
        model: The frozen model, with nothing but the place attached.
        place: Where the prefix goes.
        settings: Which start.
        length: Positions of the prefix, the longest where it is searched.
        context: Real rows to measure on, and the seed.

    Raises:
        ModelError: The text has fewer tokens than the prefix has positions.
    """
    start = _plain_start(model, place, settings, context)
    generator = torch.Generator().manual_seed(context.seed)
    match settings.start_kind:
        case "zero":
            return start.zeroed()
        case "random":
            return start.drawn(length, generator)
        case "vocabulary":
            return start.at(draw_embeddings(model, length, generator)[None, None, None])
        case "text":
            return start.at(_text_rows(model, place, _tokens(model, settings, length)))
        case "quiet":
            return start


def _plain_start(
    model: TaskModel, place: PrefixPlace, settings: PrefixBaseSettings, context: AttachContext
) -> PrefixStart:
    """Quiet keys; at the input, zeros, and the usual norm of an embedding."""
    if isinstance(place, PrefixInjection):
        return measure_start(place, context.calibrate, quietness=settings.quietness, radius=1.0)
    sample = draw_embeddings(model, _SAMPLE, torch.Generator().manual_seed(0))
    return PrefixStart.zeros(place.shape, sample.float().norm(dim=-1).median().item())


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


def _text_rows(model: TaskModel, place: PrefixPlace, tokens: Tensor) -> Tensor:
    """What the model makes of a text where the prefix goes."""
    if not isinstance(place, PrefixInjection):
        return embed_tokens(model, tokens[0])[None, None, None]
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if model.backbone.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens

    def run() -> None:
        model.eval()
        model.backbone(**inputs)

    return read_rows(place, run)
