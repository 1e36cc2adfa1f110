"""Injection against PEFT's prefix tuning, a pre-filled cache and attention written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from peml.injection.inject import attach_prefix
from peml.injection.rotation import peft_layout, peft_prompt_embeddings
from peml.prefix.prefix import Prefix
from peml.testing.models import tiny_bert, tiny_llama, tiny_mistral, tiny_model, tiny_t5
from tests.injection.common import inputs_for, random_prefix, real, token_ids

N = 5


def _peft_logits(family: str, embeddings: Tensor, inputs: dict[str, Any]) -> Tensor:
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=embeddings.shape[0])
    model = get_peft_model(tiny_model(family), config).eval()
    model.prompt_encoder["default"].embedding.weight.data.copy_(embeddings)
    with torch.no_grad():
        logits: Tensor = model(**inputs).logits
        return logits


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi", "gpt-neox", "smollm3"])
def test_rotary_models_equal_peft_after_key_rotation(family: str) -> None:
    model, inputs = tiny_model(family), inputs_for(family)
    injection = attach_prefix(model)
    prefix = random_prefix(injection.shape, N)
    injection.set(prefix)
    with torch.no_grad():
        ours = model(**inputs).logits
    theirs = _peft_logits(family, peft_prompt_embeddings(injection, prefix), inputs)
    torch.testing.assert_close(real(ours, inputs), real(theirs, inputs), atol=1e-5, rtol=1e-5)
    unrotated = _peft_logits(family, peft_layout(prefix.tensor), inputs)
    assert (real(ours, inputs) - real(unrotated, inputs)).abs().max() > 1e-2


def test_learned_positions_equal_peft_at_shifted_positions() -> None:
    model, inputs = tiny_model("gpt2"), inputs_for("gpt2")
    injection = attach_prefix(model)
    prefix = random_prefix(injection.shape, N)
    injection.set(prefix)
    positions = torch.arange(N, N + 12).expand(2, -1)
    with torch.no_grad():
        ours = model(**inputs, position_ids=positions).logits
    theirs = _peft_logits("gpt2", peft_layout(prefix.tensor), inputs)
    torch.testing.assert_close(real(ours, inputs), real(theirs, inputs), atol=1e-5, rtol=1e-5)


def _cache(prefix: Prefix, rows: int) -> DynamicCache:
    return DynamicCache(
        [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in prefix.tensor]
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right", "none"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_equals_a_prefilled_cache(family: str, side: str, attention: str) -> None:
    model = tiny_model(family, attention=attention)
    ids, mask = token_ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    if side == "left":
        mask[1, :4] = 0
    elif side == "right":
        mask[1, -4:] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    injection = attach_prefix(model)
    prefix = random_prefix(injection.shape, N)
    with torch.no_grad():
        wanted = model(
            input_ids=ids,
            attention_mask=torch.cat([torch.ones(2, N, dtype=torch.long), mask], dim=1),
            position_ids=positions,
            past_key_values=_cache(prefix, 2),
        ).logits
        injection.set(prefix)
        got = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        unmasked = model(input_ids=ids[:1], position_ids=positions[:1]).logits
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(unmasked, wanted[:1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sliding_windows_never_hide_the_prefix(attention: str) -> None:
    """Against the same weights without a window and a mask drawn by hand."""
    window, length = 6, 20
    model = tiny_mistral(attention=attention, sliding_window=window)
    free = tiny_mistral(attention=attention, sliding_window=None)
    injection = attach_prefix(model)
    prefix = random_prefix(injection.shape, N)
    injection.set(prefix)
    ids, positions = token_ids(2, length), torch.arange(length).expand(2, -1)
    query, key = torch.arange(length)[:, None], torch.arange(length)[None]
    band = (key <= query) & (key > query - window)
    visible = torch.cat([torch.ones(length, N, dtype=torch.bool), band], dim=1)
    additive = torch.zeros(2, 1, length, N + length).masked_fill(~visible, -1e30)
    with torch.no_grad():
        got = model(input_ids=ids).logits
        wanted = free(
            input_ids=ids,
            attention_mask=additive,
            position_ids=positions,
            past_key_values=_cache(prefix, 2),
        ).logits
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


class _ByHand(nn.Module):
    """Attention with a prefix, one head and one query at a time."""

    def __init__(
        self, project: Any, heads: int, scaling: float, pair: Tensor, causal: bool
    ) -> None:
        super().__init__()
        self.project, self.heads, self.scaling = project, heads, scaling
        self.pair, self.causal = pair, causal

    def run(self, hidden: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """hidden (batch, length, channels), mask (batch, length), bias (heads, length, length)."""
        query, key, value = (layer(hidden) for layer in self.project)
        rows, length, channels = query.shape
        size = channels // self.heads
        out = torch.zeros_like(query)
        n = self.pair.shape[2]
        for row in range(rows):
            for head in range(self.heads):
                part = slice(head * size, (head + 1) * size)
                keys = torch.cat([self.pair[0, head], key[row, :, part]])
                values = torch.cat([self.pair[1, head], value[row, :, part]])
                for token in range(length):
                    logits = self.scaling * (keys @ query[row, token, part])
                    if bias is not None:
                        logits[n:] += bias[head, token]
                    hidden_tokens = mask[row] == 0
                    if self.causal:
                        hidden_tokens = hidden_tokens | (torch.arange(length) > token)
                    logits[n:][hidden_tokens] = -torch.inf
                    out[row, token, part] = logits.softmax(0) @ values
        return out


class _BertByHand(_ByHand):
    mask: Tensor

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return self.run(hidden_states, self.mask, None), None


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert_equals_attention_by_hand(attention: str) -> None:
    inputs = inputs_for("bert", length=7)
    model, slow = tiny_bert(attention=attention), tiny_bert()
    injection = attach_prefix(model)
    prefix = random_prefix(injection.shape, 3)
    injection.set(prefix)
    for layer, pair in zip(slow.encoder.layer, prefix.tensor, strict=True):
        old = layer.attention.self
        new = _BertByHand((old.query, old.key, old.value), 4, 8**-0.5, pair, causal=False)
        new.mask = inputs["attention_mask"]
        layer.attention.self = new
    with torch.no_grad():
        got, wanted = model(**inputs)[0], slow(**inputs)[0]
    torch.testing.assert_close(real(got, inputs), real(wanted, inputs), atol=1e-5, rtol=1e-5)


class _T5ByHand(_ByHand):
    out: nn.Module
    mask: Tensor
    bias: Tensor

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Any, None]:
        return self.out(self.run(hidden_states, self.mask, self.bias)), self.bias[None], None


def _t5_by_hand(slow: PreTrainedModel, prefix: Prefix, inputs: dict[str, Any]) -> None:
    layers = iter(prefix.tensor)
    for stack, mask, causal in (
        (slow.encoder, inputs["attention_mask"], False),
        (slow.decoder, torch.ones_like(inputs["decoder_input_ids"]), True),
    ):
        length = mask.shape[1]
        bias = stack.block[0].layer[0].SelfAttention.compute_bias(length, length)[0]
        for block in stack.block:
            old = block.layer[0].SelfAttention
            new = _T5ByHand((old.q, old.k, old.v), 4, 1.0, next(layers), causal)
            new.out, new.mask, new.bias = old.o, mask, bias
            block.layer[0].SelfAttention = new


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_t5_equals_attention_by_hand(attention: str) -> None:
    inputs = inputs_for("t5", length=7)
    model, slow = tiny_t5(attention=attention), tiny_t5()
    injection = attach_prefix(model)
    prefix = random_prefix(injection.shape, 3)
    injection.set(prefix)
    with torch.no_grad():
        _t5_by_hand(slow, prefix, inputs)
        got, wanted = model(**inputs).logits, slow(**inputs, use_cache=False).logits
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_last_tokens_are_not_dropped_where_sdpa_masks_by_itself() -> None:
    """sdpa cuts keys to the query length when it masks causally on its own."""
    model = tiny_llama(num_hidden_layers=1)
    injection = attach_prefix(model)
    injection.set(random_prefix(injection.shape, N))
    ids = token_ids(1, 12)
    changed = ids.clone()
    changed[0, 10] = 7
    with torch.no_grad():
        one, two = model(input_ids=ids).logits, model(input_ids=changed).logits
    assert torch.equal(one[:, :10], two[:, :10]), "the future shows"
    assert (one[:, 11] - two[:, 11]).abs().max() > 1e-3, "a late token was dropped"
