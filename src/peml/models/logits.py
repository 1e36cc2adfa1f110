"""Logits at chosen positions only, since the vocabulary is large and few positions are needed.

A hook in front of the output layer selects the hidden states of these positions. Everything after
it works as usual: soft caps, scaling, a bias, and methods attached to the output layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# As a share of the largest logit; a wrong position gives a far larger difference.
_LEAST_TOLERANCE, _TIMES_ROUNDING = 1e-3, 8.0
_TOKENS = 5


@dataclass(frozen=True)
class Positions:
    """Positions whose logits are needed.

    Attributes:
        rows: Row of each position, (positions,).
        places: Its index in the row's hidden states, (positions,).
        everywhere: Whether the model has to compute all logits, see `logits_problem`.
    """

    rows: Tensor
    places: Tensor
    everywhere: bool = False

    def logits(self, model: Any, **inputs: Any) -> Tensor:
        """Runs a text-to-text model and returns the positions' logits, (positions, vocabulary)."""
        if self.everywhere:
            whole: Tensor = model(**inputs).logits
            return whole[self.rows, self.places]
        with self._selected(model.get_output_embeddings()):
            chosen: Tensor = model(**inputs).logits
        return chosen[0]

    @contextmanager
    def _selected(self, layer: nn.Module) -> Iterator[None]:
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
    """Why a model has to compute the logits of every position; None if it doesn't.

    Runs a tiny input both ways.

    Args:
        model: Freshly loaded, without attached methods.
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
        return f"a test failed: {error}"
    if chosen.shape != whole.shape:
        return f"a test gave logits of shape {tuple(chosen.shape)}"
    if not whole.isfinite().all():
        return None  # such a model is refused where its numbers are used
    difference = float((chosen - whole).abs().max() / whole.abs().max().clamp_min(1e-6))
    if difference <= max(_LEAST_TOLERANCE, _TIMES_ROUNDING * torch.finfo(whole.dtype).eps):
        return None
    return f"in a test, logits differ by {difference:.2g} of the largest"
