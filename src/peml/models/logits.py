"""Logits at chosen positions only, since the vocabulary is large and few positions are needed.

A hook in front of the output layer selects the hidden states of these positions. Everything after
it works as usual: soft caps, scaling, a bias, and methods attached to the output layer.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peml.injection.difference import unexplained
from peml.models.limits import pass_limits
from peml.models.sharding import is_sharded
from peml.models.tail import cross_entropy, feeding, nll_in_chunks

_TOKENS = 5


@dataclass(frozen=True)
class Positions:
    """Positions whose logits are needed.

    Attributes:
        rows: Row of each position, (positions,).
        places: Its index in the row's hidden states, (positions,).
        everywhere: Whether the model has to compute all logits, see `logits_problem`.
        most: Maximum positions whose logits `nll` holds at once; default: by the vocabulary.
    """

    rows: Tensor
    places: Tensor
    everywhere: bool = False
    most: int | None = None

    def logits(self, model: Any, **inputs: Any) -> Tensor:
        """Runs a text-to-text model and returns the positions' logits, (positions, vocabulary)."""
        if self.everywhere:
            whole: Tensor = model(**inputs).logits
            return self._choose(whole)
        with feeding(model.get_output_embeddings(), self._choose):
            chosen: Tensor = model(**inputs).logits
        return chosen[0]

    def nll(self, model: Any, tokens: Tensor, **inputs: Any) -> Tensor:
        """Negative log-likelihood of a token at each position, (positions,) float32."""
        most = self.most
        if most is None:
            held = pass_limits(tokens.device).logits
            most = max(1, held // model.config.get_text_config().vocab_size)
        # Chunks of a sharded model would be passes, of which processes need equally many.
        if self.everywhere or len(tokens) <= most or is_sharded(model):
            return cross_entropy(self.logits(model, **inputs), tokens)
        return nll_in_chunks(model, self._choose, tokens, most, **inputs)

    def _choose(self, states: Tensor) -> Tensor:
        return states[self.rows, self.places]


@torch.no_grad()
def logits_problem(model: Any) -> str | None:
    """Why a model has to compute the logits of every position; None if it needn't.

    Runs a tiny input both ways.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Module):
        return "it has no output layer of its own"
    device = next(model.parameters()).device
    ids = (
        torch.arange(2 * _TOKENS, device=device).view(2, _TOKENS)
        % model.config.get_text_config().vocab_size
    )
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    rows = torch.tensor([0, 0, 1], device=device)
    places = torch.tensor([0, 3, 2], device=device)
    whole = Positions(rows, places, everywhere=True).logits(model, **inputs)
    tokens = ids[rows, places]
    try:
        chosen = Positions(rows, places).logits(model, **inputs)
        parts = Positions(rows, places, most=1).nll(model, tokens, **inputs)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        return f"a test failed: {error}"
    if chosen.shape != whole.shape:
        return f"a test gave logits of shape {tuple(chosen.shape)}"
    if not whole.isfinite().all():
        return None  # such a model is refused where its numbers are used
    expected = cross_entropy(whole, tokens)
    difference = unexplained(chosen, whole) or unexplained(parts, expected, dtype=whole.dtype)
    return f"in a test, logits differ by {difference:.2g} of the largest" if difference else None


@torch.no_grad()
def reads_ahead(model: Any) -> bool:
    """Whether a token's logits change with the tokens after it, which a decoder's must not.

    Of an encoder-decoder, logits in training are compared with those of a shorter text behind
    encoder states, as options are scored: ProphetNet's differ with the text's length, and FSMT has
    no causal mask then.
    """
    device = next(model.parameters()).device
    ids = (
        torch.arange(2 * _TOKENS, device=device).view(2, _TOKENS) + _TOKENS
    ) % model.config.get_text_config().vocab_size
    inputs: dict[str, Any] = {"attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        encoded = model.get_encoder()(input_ids=ids, **inputs)
        inputs["use_cache"] = False
        one = model(input_ids=ids, decoder_input_ids=ids, **inputs).logits[:, :-1]
        other = model(
            encoder_outputs=states_of(encoded), decoder_input_ids=ids[:, :-1], **inputs
        ).logits
    else:
        ids[1, :-1] = ids[0, :-1]  # two rows that differ in their last token
        one, other = model(input_ids=ids, use_cache=False, **inputs).logits[:, :-1]
    return unexplained(other, one) > 0


def states_of(encoded: Any, rows: Tensor | slice = slice(None)) -> Any:
    """An encoder's output for the rows of a batch, of its own class: states, and nothing else."""
    return type(encoded)(last_hidden_state=encoded.last_hidden_state[rows])
