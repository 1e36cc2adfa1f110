"""Rows attend to the context they share as if each had a copy of it in front."""

from __future__ import annotations

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
