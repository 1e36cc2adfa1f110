"""Logits of chosen positions are those of the whole sequence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import (
    BartConfig,
    BartForCausalLM,
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    CohereForCausalLM,
    FSMTConfig,
    FSMTForConditionalGeneration,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    ProphetNetConfig,
    ProphetNetForConditionalGeneration,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
)

from peml.errors import ModelError
from peml.models import ModelSettings, load_backbone
from peml.models.logits import Positions, logits_problem, states_of
from peml.testing.models import TINY_FAMILIES, VOCABULARY, tiny_model, tiny_tokenizer

ROWS, PLACES = torch.tensor([0, 0, 1]), torch.tensor([1, 4, 2])
TOKENS = torch.tensor([7, 30, 12])
SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
BART: dict[str, Any] = {"d_model": 16, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
MADE: dict[str, Callable[[], Any]] = {
    "bart-decoder": lambda: BartForCausalLM(BartConfig(vocab_size=50, decoder_layers=2, **BART)),
    "bert-decoder": lambda: BertLMHeadModel(BertConfig(**SMALL, is_decoder=True)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=0.2)),
    "gemma-capped": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=0.05)),
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


def _losses(
    model: Any, most: int, everywhere: bool = False
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Losses of the three positions, and gradients of their sum with weights that differ."""
    positions = Positions(ROWS, PLACES, everywhere, most)
    nll = positions.nll(model, TOKENS, **_inputs(model))
    (nll * torch.tensor([0.2, 1.0, 3.0])).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return nll.detach(), gradients


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_in_chunks_are_those_of_the_whole(name: str, frozen: bool) -> None:
    model = _model(name)
    head = model.get_output_embeddings().requires_grad_(not frozen)
    expected, wanted = _losses(model, most=3, everywhere=True)
    sizes: list[int] = []
    handle = head.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[1]))
    nll, gradients = _losses(model, most=2)
    handle.remove()
    # With a frozen output layer no logits are computed again in the backward pass.
    assert sizes[:3] == [0, 2, 1]
    assert sorted(sizes[3:]) == ([] if frozen else [1, 2])
    torch.testing.assert_close(nll, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "t5", "bart-decoder"])
def test_chunks_run_the_layers_once(name: str) -> None:
    model = _model(name)
    calls: list[nn.Module] = []
    groups = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    for layer in (each for group in groups for each in group):
        layer.register_forward_hook(lambda module, *_: calls.append(module))
    nll = Positions(ROWS, PLACES, most=1).nll(model, TOKENS, **_inputs(model))
    nll.sum().backward()
    assert len(calls) == len(set(calls)) > 0


@pytest.mark.parametrize("name", ["gemma-capped", "t5"])
def test_chunks_respect_a_lora_on_the_output_layer(name: str) -> None:
    model = _model(name)
    inject_adapter_in_model(LoraConfig(target_modules=["lm_head"], init_lora_weights=False), model)
    expected, wanted = _losses(model, most=3, everywhere=True)
    nll, gradients = _losses(model, most=1)
    assert any("lora_" in each for each in gradients)
    torch.testing.assert_close(nll, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients, wanted, atol=1e-5, rtol=1e-4)


def test_scoring_holds_one_chunk_of_logits_at_a_time() -> None:
    model = _model("llama")
    sizes: list[int] = []
    with torch.no_grad():
        whole = Positions(ROWS, PLACES).nll(model, TOKENS, **_inputs(model))
        head = model.get_output_embeddings()
        head.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[1]))
        chunks = Positions(ROWS, PLACES, most=1).nll(model, TOKENS, **_inputs(model))
    assert sizes == [0, 1, 1, 1]
    torch.testing.assert_close(chunks, whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_generation_computes_the_last_position_alone(name: str) -> None:
    model = _model(name)
    inputs = {k: v for k, v in _inputs(model).items() if k in {"input_ids", "attention_mask"}}
    sizes: list[int] = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[1]))
    model.generate(**inputs, max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert set(sizes) == {1}


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


def test_a_model_that_sees_later_tokens_is_not_read_as_a_decoder(tmp_path: Path) -> None:
    """An answer's likelihood would be that of reading it."""
    tiny_model("bert", head="LMHeadModel").save_pretrained(tmp_path)
    tiny_tokenizer("causal").save_pretrained(tmp_path)
    settings = ModelSettings(name=str(tmp_path), family="causal")
    with pytest.raises(ModelError, match="is no decoder"):
        load_backbone(settings)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "is_decoder": True}))
    load_backbone(settings)


def _prophetnet() -> Any:
    config = ProphetNetConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_encoder_layers=1,
        num_encoder_attention_heads=4,
        encoder_ffn_dim=48,
        num_decoder_layers=1,
        num_decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_position_embeddings=60,
        init_std=0.2,
    )
    return ProphetNetForConditionalGeneration(config)


def _fsmt() -> Any:
    config = FSMTConfig(
        langs=["en", "de"],
        src_vocab_size=VOCABULARY,
        tgt_vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=1,
        encoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        init_std=0.2,
    )
    return FSMTForConditionalGeneration(config)


@pytest.mark.parametrize("model", [_prophetnet, _fsmt])
def test_an_encoder_decoder_whose_options_would_be_scored_otherwise_is_refused(
    model: Callable[[], Any], tmp_path: Path
) -> None:
    """Their logits in training aren't those behind encoder states, or of a shorter text."""
    torch.manual_seed(0)
    model().save_pretrained(tmp_path)
    tiny_tokenizer("seq2seq").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="can't be scored: in a test, a token's logits changed"):
        load_backbone(ModelSettings(name=str(tmp_path)))


def test_an_encoder_keeps_the_class_of_its_output() -> None:
    """Switch Transformers' decoder asks it for the router's logits."""
    config = SwitchTransformersConfig(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, num_experts=2
    )
    encoded = SwitchTransformersForConditionalGeneration(config).get_encoder()(
        torch.arange(6).view(2, 3)
    )
    chosen = states_of(encoded, torch.tensor([1, 1, 0]))
    assert chosen.router_logits is None
    assert chosen.last_hidden_state.shape == (3, 3, 32)
