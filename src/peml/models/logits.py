"""Logits at chosen positions alone: the vocabulary is large, and few positions are asked for it.

A hook in front of the output layer keeps the hidden states that are asked for. What a model does to
its logits afterwards (soft caps, scaling, an added bias) it does to these, and whatever is attached
to the output layer works as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# As a share of the largest logit; a wrong position is off by far more.
_LEAST_TOLERANCE, _TIMES_ROUNDING = 1e-3, 8.0
_TOKENS = 5


@dataclass(frozen=True)
class Positions:
    """Positions whose next token is asked for.

    Attributes:
        rows: Row of each, (positions,).
        places: Its place in the row's hidden states, (positions,).
        everywhere: Whether the model has to compute all logits, see `logits_problem`.
    """

    rows: Tensor
    places: Tensor
    everywhere: bool = False

    def logits(self, model: Any, **inputs: Any) -> Tensor:
        """Runs a text-to-text model; the positions' logits, (positions, vocabulary).

        Args:
            model: Has an output layer.
            **inputs: Of its forward pass.
        """
        if self.everywhere:
            whole: Tensor = model(**inputs).logits
            return whole[self.rows, self.places]
        with self._asked_for(model.get_output_embeddings()):
            chosen: Tensor = model(**inputs).logits
        return chosen[0]

    @contextmanager
    def _asked_for(self, layer: nn.Module) -> Iterator[None]:
        def choose(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden, *others = inputs
            return (hidden[self.rows, self.places][None], *others)

        handle = layer.register_forward_pre_hook(choose)
        try:
            yield
        finally:
            handle.remove()


@torch.no_grad()
def logits_problem(model: Any) -> str | None:
    """Why a model has to compute the logits of every position; None where it doesn't.

    A tiny input is run both ways.

    Args:
        model: Freshly loaded, nothing attached.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Module):
        return "it has no output layer of its own"
    device = next(model.parameters()).device
    ids = torch.arange(2 * _TOKENS, device=device).view(2, _TOKENS) % model.config.vocab_size
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    rows = torch.tensor([0, 0, 1], device=device)
    places = torch.tensor([0, 3, 2], device=device)
    whole = Positions(rows, places, everywhere=True).logits(model, **inputs)
    try:
        chosen = Positions(rows, places).logits(model, **inputs)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        return f"a try failed: {error}"
    if chosen.shape != whole.shape:
        return f"a try gave logits of shape {tuple(chosen.shape)}"
    if not whole.isfinite().all():
        return None  # such a model is refused where its numbers are used
    difference = float((chosen - whole).abs().max() / whole.abs().max().clamp_min(1e-6))
    if difference <= max(_LEAST_TOLERANCE, _TIMES_ROUNDING * torch.finfo(whole.dtype).eps):
        return None
    return f"a try differs by {difference:.2g} of the largest logit"
