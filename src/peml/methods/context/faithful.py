"""Checks that a held context gives the same answers as its text in front of a row."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from peml.errors import ModelError
from peml.injection.difference import unexplained
from peml.injection.inject import PrefixInjection
from peml.models import TaskModel, make_room_for_context
from peml.models.logits import Positions

_ROW = 8
_ACTION = "choose a method without a context; tasks.shots shows the same rows in every prompt"


def refuse_too_long(model: TaskModel, injection: PrefixInjection, length: int) -> None:
    """Raises a ModelError if a context leaves rows too few positions, or a window would hide it.

    An encoder's context has its own positions.

    `length` is the number of tokens of the longest context.
    """
    family = model.family
    if not all(site.causal for site in injection.sites):
        if family.positions is not None and length > family.positions:
            raise ModelError(
                f"a context of {length} tokens doesn't fit into the model's {family.positions} "
                "positions",
                allowed=f"contexts of at most {family.positions} tokens",
                action="lower method.context.shots",
            )
        return
    # Rotary positions have no fixed limit, but the model was made for this many.
    config = model.backbone.config.get_text_config()
    positions = family.positions or getattr(config, "max_position_embeddings", None)
    make_room_for_context(family, length, positions)
    total = length + family.max_length
    if positions is not None and total > positions:
        raise ModelError(
            f"a context of {length} tokens and rows of up to {family.max_length} (model.max_length)"
            f" don't fit into the model's {positions} positions",
            allowed=f"contexts of at most {positions - family.max_length} tokens",
            action="show fewer rows (method.context.shots), or lower model.max_length",
        )
    windows = [site.sliding_window for site in injection.sites if site.sliding_window is not None]
    if windows and total > min(windows):
        raise ModelError(
            f"a context of {length} tokens and rows of up to {family.max_length} (model.max_length)"
            f" are longer than the model's sliding window of {min(windows)}, which would hide part "
            "of the context from the rows' ends",
            allowed=f"at most {min(windows)} tokens in all",
            action="lower method.context.shots, or model.max_length",
        )


def refuse_unfaithful(
    model: TaskModel, tokens: Sequence[int], hold: Callable[[Sequence[int]], None]
) -> None:
    """Refuses a model whose logits after a held context differ from those after the same text.

    The model is in evaluation mode. The last of the context's `tokens` serve as the row; `hold`
    makes tokens the context of the next forward pass.

    Raises:
        ModelError: They differ, or the model can't place a context before position 0.
    """
    row = min(_ROW, len(tokens) // 2)
    if not row:
        return
    try:
        whole = _last_logits(model, tokens, row)
        hold(tokens[:-row])
        held = _last_logits(model, tokens[-row:], row)
    except (IndexError, TypeError) as error:
        raise ModelError(
            f"this model can't hold a context: it has no positions before a row's first ({error})",
            allowed="decoders with rotary positions (Llama, Qwen, Phi, GPT-NeoX, ...), encoders",
            action=_ACTION,
        ) from error
    difference = unexplained(held, whole, least=1e-4)
    if difference:
        raise ModelError(
            "this model would answer differently with a held context than with the same text in "
            f"front of a row: in a test, logits differ by {difference:.2g} of the largest",
            allowed="decoders with rotary positions (Llama, Qwen, Phi, GPT-NeoX, ...), encoders",
            action=_ACTION,
        )


def _last_logits(model: TaskModel, tokens: Sequence[int], count: int) -> Tensor:
    """Logits of the last tokens of a row, (count, vocabulary)."""
    ids = torch.tensor([tokens], device=model.device)
    places = torch.arange(len(tokens) - count, len(tokens), device=model.device)
    positions = Positions(
        torch.zeros_like(places), places, everywhere=model.family.logits_everywhere
    )
    return positions.logits(
        model.backbone, input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
    )
