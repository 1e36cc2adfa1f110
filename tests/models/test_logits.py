"""Logits of chosen positions are those of the whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

from peml.models.logits import Positions, logits_problem
from peml.testing.models import TINY_FAMILIES, tiny_model

ROWS, PLACES = torch.tensor([0, 0, 1]), torch.tensor([1, 4, 2])
SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
MADE: dict[str, Callable[[], Any]] = {
    "gemma": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=0.05)),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.0625)),
}
NAMES = [*(n for n, made in TINY_FAMILIES.items() if made.kind != "encoder"), *MADE]


def _model(name: str) -> Any:
    torch.manual_seed(0)
    return (MADE[name]() if name in MADE else tiny_model(name)).eval()


def _inputs(model: Any) -> dict[str, Any]:
    ids = torch.randint(5, 45, (2, 6), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    return inputs | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})


def _both_ways(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    whole = Positions(ROWS, PLACES, everywhere=True).logits(model, **_inputs(model))
    return Positions(ROWS, PLACES).logits(model, **_inputs(model)), whole


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_chosen_positions_are_those_of_the_whole(name: str) -> None:
    model = _model(name)
    assert logits_problem(model) is None
    seen: list[torch.Size] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[:2]))
    chosen = Positions(ROWS, PLACES).logits(model, **_inputs(model))
    handle.remove()
    assert seen == [(1, 3)]
    whole = model(**_inputs(model)).logits[ROWS, PLACES]
    torch.testing.assert_close(chosen, whole, atol=1e-5, rtol=1e-5)


def test_none_are_computed_where_nothing_is_scored() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    model = _model("llama")
    assert len(Positions(nothing, nothing).logits(model, **_inputs(model))) == 0


def test_a_lora_on_the_output_layer_works_on_them() -> None:
    model = _model("llama")
    inject_adapter_in_model(LoraConfig(target_modules=["lm_head"], init_lora_weights=False), model)
    chosen, whole = _both_ways(model)
    torch.testing.assert_close(chosen, whole, atol=1e-5, rtol=1e-5)
    chosen.sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora_" in n)


class _ByPlace(nn.Module):
    """An output layer whose logits depend on where a token stands."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(hidden)
        return logits * torch.arange(1, logits.shape[1] + 1)[:, None]


def test_a_model_that_needs_every_position_is_found_out() -> None:
    model = _model("llama")
    model.set_output_embeddings(_ByPlace(model.get_output_embeddings()))
    assert "logits differ by" in str(logits_problem(model))
    assert not model.get_output_embeddings()._forward_pre_hooks
