"""Rows attend to the context they share as if each had a copy of it in front."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from peml.injection import shared
from peml.injection.masks import causal_mask
from peml.injection.shared import Shared, attend_shared


def _copied(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, contexts: list[Shared]
) -> Tensor:
    """The same with a copy of its context in front of every row."""
    outputs, row = [], 0
    for each in contexts:
        for _ in range(each.rows):
            keys, values, seen = key[row], value[row], mask[min(row, len(mask) - 1)]
            if each.key is not None and each.value is not None:
                keys = torch.cat([each.key, keys], 1)
                values = torch.cat([each.value, values], 1)
                seen = functional.pad(seen, (each.key.shape[1], 0), value=True)
            outputs.append(
                functional.scaled_dot_product_attention(
                    query[row], keys, values, attn_mask=seen, scale=0.3, enable_gqa=True
                )
            )
            row += 1
    return torch.stack(outputs).transpose(1, 2)


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("kind", ["causal", "boolean", "additive"])
@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_it_is_attention_to_a_copy_with_its_gradients(
    kv_heads: int, kind: str, frozen: bool, written_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    query = torch.randn(5, 4, 6, 8, requires_grad=True)
    key, value = (torch.randn(5, kv_heads, 6, 8, requires_grad=True) for _ in range(2))
    held = [torch.randn(kv_heads, n, 8, requires_grad=not frozen) for n in (7, 7, 3, 3)]
    contexts = [Shared(2, held[0], held[1]), Shared(1), Shared(2, held[2], held[3])]
    mask = causal_mask(6, 0, torch.device("cpu"))
    if kind != "causal":
        mask = mask.repeat(5, 1, 1, 1)
        mask[3, :, :, :2] = False  # padding on the left; its queries see the context alone
    given = {"causal": None, "boolean": mask, "additive": torch.where(mask, 0.0, -1e9)}[kind]

    if written_out:
        monkeypatch.setattr(shared, "_is_fused", lambda query, dropout: False)
    ours = attend_shared(query, key, value, given, contexts, scaling=0.3, causal=kind == "causal")
    theirs = _copied(query, key, value, mask, contexts)

    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(ours)
    inputs = (query, key, value) if frozen else (query, key, value, *held)
    for mine, reference in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((theirs * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("loud", "by_row"), [(0.5, False), (0.5, True), (100.0, False)])
def test_in_bfloat16_it_is_near_to_float32(
    trained: bool, padded: bool, loud: float, by_row: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a context's logits are so large that a row's own tokens have no share."""
    torch.manual_seed(0)
    if by_row:  # as of a long batch, whose weights are computed in pieces
        monkeypatch.setattr(shared, "_MOST_WEIGHTS", 1)
    size = (3, 4, 6, 8)
    states = [torch.randn(size), *(torch.randn(3, 2, 6, 8) for _ in range(2))]
    held = [torch.randn(2, 40, 8) * loud, torch.randn(2, 40, 8)]
    mask = causal_mask(6, 0, torch.device("cpu")).repeat(3, 1, 1, 1)
    mask[1, :, :, :2] = not padded  # its first queries see the context alone
    mask &= causal_mask(6, 0, torch.device("cpu"))
    weight = torch.randn(3, 6, 4, 8)
    used, by_products = [], shared._join_by_products

    def watched(*given: Any) -> Any:
        used.append(by_products(*given))
        return used[-1]

    monkeypatch.setattr(shared, "_join_by_products", watched)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        own = [each.bfloat16().to(dtype).requires_grad_() for each in states]
        low = [each.bfloat16().to(dtype).requires_grad_(trained) for each in held]
        contexts = [Shared(3, low[0], low[1])]
        query, key, value = own
        output = attend_shared(query, key, value, mask, contexts, scaling=0.3, causal=False)
        wanted = [*own, *low] if trained else own
        gradients = torch.autograd.grad((output * weight).sum(), wanted)
        results.append([each.float() for each in (output, *gradients)])
    assert used[0] is None
    assert (used[1] is not None) is (loud < 1 and not padded)
    for exact, rounded in zip(*results, strict=True):
        assert rounded.isfinite().all()
        assert (rounded - exact).norm() <= (0.02 if loud < 1 else 0.05) * exact.norm() + 1e-6


def test_dropout_drops_weights_of_both_parts() -> None:
    torch.manual_seed(0)
    query, key = torch.zeros(64, 2, 8, 4), torch.zeros(64, 2, 6, 4)
    value = torch.eye(10)[None, None, 4:].expand(64, 2, -1, -1)  # the output is the weights
    context = Shared(64, torch.zeros(2, 4, 4), torch.eye(10)[None, :4].expand(2, -1, -1))
    weights = attend_shared(
        query, key, value, None, [context], scaling=1.0, causal=False, dropout=0.25
    )
    for part in (weights[..., :4], weights[..., 4:]):
        assert (part == 0).double().mean() == pytest.approx(0.25, abs=0.02)
        assert part.mean() == pytest.approx(0.1, abs=0.003)
