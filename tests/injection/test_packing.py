"""Packed rows: what the model computes is what it computes for the same rows padded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from peml.errors import InjectionError
from peml.injection import attention
from peml.injection.inject import attach_prefix
from peml.injection.masks import causal_mask
from peml.injection.packing import PackedRows, enable_packing
from peml.testing.models import tiny_model
from tests.injection.common import token_ids, with_random_prefix

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
ROWS = PackedRows.of(MASK)


def test_rows_are_packed_and_laid_side_by_side_again() -> None:
    padded = torch.arange(12).view(3, 4)
    assert ROWS.pack(padded).tolist() == [[0, 1, 2, 4, 8, 9]]
    assert torch.equal(ROWS.unpack(ROWS.pack(padded)), padded * MASK)
    found = ROWS.find(torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1]))
    assert found.tolist() == [2, 3, 5]


def test_positions_start_again_with_each_row() -> None:
    inputs = ROWS.inputs({"input_ids": torch.arange(12).view(3, 4), "attention_mask": MASK})
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]


def test_a_window_hides_tokens_and_no_prefix() -> None:
    mask = causal_mask(3, 2, torch.device("cpu"), 2)
    assert mask[0, 0].int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 1, 1]]


def _both_ways(model: Any, length: int = 20) -> tuple[Tensor, Tensor]:
    """Hidden states of three rows at real tokens, padded and packed."""
    ids = token_ids(3, length)
    mask = (torch.arange(length) < torch.tensor([[length], [4], [9]])).long()
    padded = {"input_ids": ids, "attention_mask": mask}
    rows = PackedRows.of(mask)
    seen: list[torch.Size] = []
    embedding = model.base_model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda *call: seen.append(call[2].shape[:2]))
    whole = rows.pack(model.base_model(**padded).last_hidden_state)
    packed = model.base_model(**rows.inputs(padded)).last_hidden_state
    handle.remove()
    assert seen == [(3, length), (1, length + 13)]
    return packed, whole


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "qwen3-moe", "bert", "distilbert"])
def test_a_row_sees_itself_only(name: str, implementation: str) -> None:
    """Mistral's tiny window is shorter than two of the rows."""
    model = tiny_model(name, attention=implementation)
    enable_packing(model, 20)
    torch.testing.assert_close(*_both_ways(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "mistral", "bert"])
def test_each_row_sees_the_prefix(name: str) -> None:
    model = tiny_model(name)
    enable_packing(model, 20)
    injection = attach_prefix(model)
    plain, _ = _both_ways(model)
    with_random_prefix(injection)
    packed, whole = _both_ways(model)
    torch.testing.assert_close(packed, whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(packed, plain, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("roberta", "hidden states differ"),  # positions counted from the padding's id
        ("t5", "can't take several rows"),  # biases by the distance in the sequence
        ("bloom", "attention interface"),
        ("mamba", "can't take several rows"),
    ],
)
def test_what_would_mix_rows_is_refused(name: str, reason: str) -> None:
    with pytest.raises(InjectionError, match=reason) as refused:
        enable_packing(tiny_model(name), 20)
    assert "batches.packing" in refused.value.action


def test_a_window_that_packing_overlooks_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's longest row is as long as a row may be."""

    def without_window(queries: int, length: int, device: Any, window: int) -> Tensor:
        return causal_mask(queries, length, device)

    monkeypatch.setattr(attention, "causal_mask", without_window)
    with pytest.raises(InjectionError, match="hidden states differ"):
        enable_packing(tiny_model("mistral"), 20)
