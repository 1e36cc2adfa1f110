"""Decoding is greedy, whatever a base model's ``generation_config.json`` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from peml.errors import ModelError
from peml.models import ModelSettings, TaskModel, load_backbone, load_family
from peml.testing.models import EOS, MASK, save_tiny_model
from tests.models.tasks import Row, collate, encode, tiny_task_model
from tests.tasks.examples import generation

TEXTS = ("the dog", "is this", "a man is walking and a fox")
LEAKS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "bart": {
        "min_length": 6,
        "no_repeat_ngram_size": 1,
        "forced_bos_token_id": 40,
        "forced_eos_token_id": 41,
        "num_beams": 4,
        "length_penalty": 2.0,
        "early_stopping": True,
    },
    "chat": {"do_sample": True, "temperature": 0.1, "top_k": 2, "repetition_penalty": 1.9},
    "length": {"min_new_tokens": 7, "max_length": 3, "max_time": 0.0, "max_new_tokens": 1},
    "stop": {"stop_strings": ["e"]},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "tokens": {
        "suppress_tokens": list(range(5, 300)),
        "begin_suppress_tokens": list(range(5, 300)),
        "bad_words_ids": [[number] for number in range(5, 300)],
        "sequence_bias": [[[number], -50.0] for number in range(5, 300)],
    },
    "decay": {"exponential_decay_length_penalty": [1, 9.0]},
    "watermark": {"watermarking_config": {"greenlist_ratio": 0.5, "bias": 20.0}},
    "returned": {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
    "several": {"num_return_sequences": 3},
    "cache": {"cache_implementation": "nonsense"},
    "no cache": {"use_cache": False, "guidance_scale": 3.0, "dola_layers": "low"},
    "assisted": {"prompt_lookup_num_tokens": 3, "renormalize_logits": True},
}


def loaded(folder: Path, says: dict[str, Any] | None, name: str) -> TaskModel:
    talkative: Row = {"tie_word_embeddings": False, "initializer_factor": 2.0}
    save_tiny_model(name, folder, **(talkative if name == "t5" else {}))
    path = folder / "generation_config.json"
    path.unlink()
    if says is not None:
        path.write_text(json.dumps(says), encoding="utf-8")
    settings = ModelSettings(name=str(folder), max_length=32)
    return TaskModel(load_backbone(settings), (generation(),))


def said_by(model: TaskModel, **options: Any) -> list[str | None]:
    rows: list[Row] = [{"text": text, "target": ""} for text in TEXTS]
    encoded = [(0, each) for each in encode(model.family, model.tasks[0], rows, "generate")]
    batch = collate(model.family, encoded, left=model.family.name == "causal")
    return model.generate(batch, max_new_tokens=6, **options)


@pytest.fixture(scope="module", params=["llama", "t5", "bart"])
def plain(request: Any, tmp_path_factory: Any) -> tuple[str, list[str | None]]:
    said = said_by(loaded(tmp_path_factory.mktemp("plain"), None, request.param))
    assert all(said)
    assert len(set(said)) > 1
    return request.param, said


@pytest.mark.parametrize("leak", LEAKS)
def test_nothing_of_the_file_changes_a_text(
    plain: tuple[str, list[str | None]], leak: str, tmp_path: Path
) -> None:
    name, said = plain
    model = loaded(tmp_path / "base", LEAKS[leak], name)
    assert said_by(model) == said
    model.backbone.save_pretrained(tmp_path / "saved")
    kept = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert not set(LEAKS[leak]) & set(kept.to_diff_dict()) - {"do_sample", "num_beams"}


@torch.no_grad()
def greedy_tokens(model: TaskModel, text: str, count: int) -> list[int]:
    rows: list[Row] = [{"text": text, "target": ""}]
    ids = encode(model.family, model.tasks[0], rows, "generate")[0][0].input_ids
    for _ in range(count):
        ids = [*ids, int(model.backbone(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[-count:]


def test_the_output_layer_multiplies_all_rows_at_once() -> None:
    model = tiny_task_model("llama", (generation(),))
    gaps: list[bool] = []
    layer = model.backbone.get_output_embeddings()
    handle = layer.register_forward_hook(
        lambda _, inputs, __: gaps.append(not inputs[0].is_contiguous())
    )
    said_by(model)
    handle.remove()
    assert gaps
    assert not any(gaps)
    assert not layer._forward_pre_hooks


def test_a_declared_end_ends_a_text(tmp_path: Path) -> None:
    """The whole text, and how far it goes where its third token is a declared end."""
    model = loaded(tmp_path / "plain", None, "llama")
    tokenizer = model.family.tokenizer
    tokens = greedy_tokens(model, TEXTS[2], 6)
    chosen = next(token for token in tokens[1:] if token != tokens[0])
    folder = tmp_path / "declared"
    save_tiny_model("llama", folder)
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [tokenizer.convert_ids_to_tokens(chosen)]}
    )
    tokenizer.save_pretrained(folder)
    says = {"eos_token_id": [EOS, chosen]}
    (folder / "generation_config.json").write_text(json.dumps(says), encoding="utf-8")
    settings = ModelSettings(name=str(folder), max_length=32)
    again = TaskModel(load_backbone(settings), (generation(),))
    assert again.family.spelling.ends == (EOS, chosen)
    wanted = tokenizer.decode(tokens[: tokens.index(chosen)]).strip()
    assert said_by(again)[2] == wanted
    again.backbone.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_family(ModelSettings(name=str(tmp_path / "saved"))).spelling.ends == (EOS, chosen)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    save_tiny_model("llama", tmp_path)
    (tmp_path / "generation_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        load_family(ModelSettings(name=str(tmp_path)))


def speaking(name: str, tokens: list[int]) -> TaskModel:
    """A tiny model that says these tokens, whatever it is asked."""
    model = tiny_task_model(name, (generation(),))
    head = model.backbone.get_output_embeddings()
    said = iter(range(99))

    def answer(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        wanted = tokens[min(next(said), len(tokens) - 1)]
        return torch.zeros_like(logits).index_fill(-1, torch.tensor(wanted), 1.0)

    head.register_forward_hook(answer)
    return model


@pytest.mark.parametrize("name", ["llama", "t5", "bart"])
def test_special_tokens_stay_and_end_a_text_as_stop_strings(name: str) -> None:
    tokenizer = speaking(name, [0]).family.tokenizer
    tokens = tokenizer("2 <mask> 4 <unk>", add_special_tokens=False)["input_ids"]
    assert MASK in tokens
    assert said_by(speaking(name, [*tokens, EOS])) == ["2 <mask> 4 <unk>"] * 3
    assert said_by(speaking(name, [*tokens, EOS]), stop=["<mask>"]) == ["2"] * 3
    assert said_by(speaking(name, [*tokens, EOS]), stop=["4 <unk>"]) == ["2 <mask>"] * 3
    starts = tokenizer("2 <s> 4", add_special_tokens=False)["input_ids"]
    assert said_by(speaking(name, [*starts, EOS])) == ["2  4"] * 3
    assert said_by(speaking(name, [*starts, EOS]), stop=["<s>"]) == ["2"] * 3


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_row_without_numbers_has_no_text(name: str) -> None:
    model = tiny_task_model(name, (generation(),))

    def spoil(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[1, ..., 7] = torch.nan
        return logits

    model.backbone.get_output_embeddings().register_forward_hook(spoil)
    first, second, third = said_by(model)
    assert first is not None
    assert third is not None
    assert second is None
