"""Attention with dropout on a CPU, written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from peml.injection import shared
from peml.injection.inject import attach_prefix
from peml.injection.masks import causal_mask
from peml.injection.shared import Shared, attend_shared
from peml.testing import tiny_model
from tests.injection.common import inputs_for, random_prefix


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("kind", ["none", "boolean", "additive"])
def test_without_dropout_it_is_torchs_attention_with_its_gradients(
    kv_heads: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "_is_fused", lambda query, dropout: False)
    torch.manual_seed(0)
    query = torch.randn(2, 4, 5, 8, dtype=torch.float64, requires_grad=True)
    key, value = (
        torch.randn(2, kv_heads, 8, 8, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    boolean = causal_mask(5, 3, torch.device("cpu"))
    additive = torch.zeros(1, 1, 5, 8, dtype=torch.float64).masked_fill(~boolean, -1e9)
    mask = {"none": None, "boolean": boolean, "additive": additive}[kind]

    ours = attend_shared(query, key, value, mask, [Shared(2)], scaling=0.3, causal=False)
    theirs = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    ).transpose(1, 2)

    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    weight = torch.randn_like(ours)
    for mine, reference in zip(
        torch.autograd.grad((ours * weight).sum(), (query, key, value)),
        torch.autograd.grad((theirs * weight).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, atol=1e-10, rtol=1e-10)


def test_dropout_drops_its_share_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    query, key = torch.zeros(64, 2, 8, 4), torch.zeros(64, 2, 10, 4)
    value = torch.eye(10)[None, None].expand(64, 2, -1, -1)  # the output is the weights

    weights = attend_shared(
        query, key, value, None, [Shared(64)], scaling=1.0, causal=False, dropout=0.25
    )

    assert (weights == 0).double().mean() == pytest.approx(0.25, abs=0.02)
    assert weights.mean() == pytest.approx(0.1, abs=0.002)
    kept = weights[weights > 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 0.1 / 0.75), atol=1e-4, rtol=0)


def test_a_models_training_pass_draws_dropout_and_follows_the_seed() -> None:
    model = tiny_model("bert", head="Model", attention_probs_dropout_prob=0.3).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0 if module.p != 0.3 else module.p
    injection = attach_prefix(model)
    injection.set(random_prefix(injection.shape))
    inputs = inputs_for("bert")

    def hidden(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        states: torch.Tensor = model(**inputs).last_hidden_state
        return states

    with torch.no_grad():
        first, again, other = hidden(1), hidden(1), hidden(2)
        exact = model.eval()(**inputs).last_hidden_state
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert (first - other).abs().max() > 1e-3
    assert (first - exact).abs().max() > 1e-3
