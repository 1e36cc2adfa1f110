"""Tests whether a model's output for a row depends on padding."""

from typing import Any

import torch
from torch import Tensor

from peml.errors import ModelError
from peml.injection.difference import unexplained

_PADDING = 5
_TEXT = "yes or no"
_TIMES_ROUNDING = 12.0  # in bfloat16, rounding reaches a few hundredths of the largest value


@torch.no_grad()
def padding_problem(model: Any, tokenizer: Any) -> str | None:
    """How padding after a row changes an encoder's output; None if it doesn't.

    FNet, YOSO, Nystromformer, ConvBERT and MobileBERT also read the positions of padding.
    """
    ids, mask, length = _padded(model, tokenizer, left=False)
    alone = model(input_ids=ids[:, :length], attention_mask=mask[:, :length]).last_hidden_state
    padded = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :length]
    difference = unexplained(padded, alone, times=_TIMES_ROUNDING)
    if difference > 0:  # NaN is refused where the model's numbers are used
        return f"in a test, the padding behind a row changed what is read of it by {difference:.2g}"
    return None


@torch.no_grad()
def refuse_left_padding(model: Any, tokenizer: Any) -> None:
    """Raises a ModelError if a decoder's logits change with padding in front of a row.

    Some count positions without looking at the mask, and rows of a batch are padded on the left.
    """
    if model.config.is_encoder_decoder:
        return
    ids, mask, length = _padded(model, tokenizer, left=True)
    alone = _next(model, ids[:, -length:], mask[:, -length:])
    difference = unexplained(_next(model, ids, mask), alone, times=_TIMES_ROUNDING)
    if difference > 0:
        raise ModelError(
            "this model can't generate texts for several rows at once: padding in front of a row "
            f"changes its answer (in a test, logits by {difference:.2g} of the largest)",
            allowed="decoders whose positions follow the attention mask; this one can do tasks "
            "that are scored by options",
            action="leave generation tasks out, or choose another model",
        )


def _padded(model: Any, tokenizer: Any, *, left: bool) -> tuple[Tensor, Tensor, int]:
    """A short text with padding on one side: ids, mask, and the text's length."""
    ids = tokenizer(_TEXT, return_tensors="pt")["input_ids"].to(model.device)
    padding = ids.new_full((1, _PADDING), tokenizer.pad_token_id)
    parts = (torch.ones_like(ids), torch.zeros_like(padding))
    if left:
        return torch.cat([padding, ids], 1), torch.cat(parts[::-1], 1), ids.shape[1]
    return torch.cat([ids, padding], 1), torch.cat(parts, 1), ids.shape[1]


def _next(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits of the next token, as generation computes them."""
    said = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=1,
        output_logits=True,
        return_dict_in_generate=True,
        synced_gpus=False,
    )
    logits: Tensor = said.logits[0]
    return logits
