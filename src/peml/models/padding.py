"""Whether an encoder reads a row as it would without the padding behind it."""

from __future__ import annotations

from typing import Any

import torch

_PADDING = 5
# As a share of the largest value: above rounding in bfloat16, far below what mixing gives.
_TOLERANCE = 0.02
_TEXT = "yes or no"


@torch.no_grad()
def padding_problem(model: Any, tokenizer: Any) -> str | None:
    """What padding does to a row, None if nothing; tried on a short text.

    FNet, YOSO, Nystromformer and ConvBERT read the padding's positions as well.
    """
    ids = tokenizer(_TEXT, return_tensors="pt")["input_ids"].to(model.device)
    padding = ids.new_full((1, _PADDING), tokenizer.pad_token_id)
    longer = torch.cat([ids, padding], 1)
    mask = torch.ones_like(longer)
    mask[:, ids.shape[1] :] = 0
    alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    padded = model(input_ids=longer, attention_mask=mask).last_hidden_state[:, : ids.shape[1]]
    difference = float((padded - alone).abs().max() / alone.abs().max().clamp_min(1e-6))
    if difference <= _TOLERANCE:
        return None
    return f"in a test, the padding behind a row changed what is read of it by {difference:.2g}"
