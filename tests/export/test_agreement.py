"""A saved model is read back and has to answer as the trained one did, or there is no folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peml.data import TaskBatch
from peml.errors import RunError
from peml.export import load_model, save_model
from peml.export.agreement import answers, check_agreement
from peml.methods.attached import AttachedModel
from peml.methods.lora.lora import LoraPart
from peml.records.run import Agreement
from peml.testing import TINY_TASKS, batch_of
from peml.testing.answers import rows_of
from tests.export.trained import attach, settings_of

BASES = {"encoder": "bert", "causal": "llama", "seq2seq": "t5"}


def probes(model: AttachedModel) -> list[TaskBatch]:
    return [batch_of(model.base, rows_of(task), "score") for task in range(len(TINY_TASKS))]


def save(
    folder: Path, base: str, method: str, *, dtype: Any = "float32", **options: Any
) -> Agreement:
    model = attach(base, method, folder, dtype=dtype, **options)
    asked = probes(model)
    before = answers(model, asked)
    settings = settings_of(method, **options)
    found = save_model(model, folder / "model", settings, probes=asked)
    assert found is not None
    after = answers(load_model(folder / "model"), asked)
    apart = [((b - a).abs() / (1 + a.abs())).max() for a, b in zip(before, after, strict=True)]
    assert found.largest_difference == pytest.approx(float(max(apart)), abs=1e-12)
    assert found.rows == sum(batch.examples for batch in asked)
    return found


@pytest.mark.parametrize("base", BASES.values())
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {}),
        ("lora+prefix", {}),
        ("mtl-lora", {}),
        ("moe-lora", {"r": 4, "experts": 4, "routing": "token"}),
        ("multilora", {}),
        ("prompt-tuning", {}),
        ("full", {}),
    ],
)
def test_what_is_read_back_answers_as_the_trained_model(
    tmp_path: Path, base: str, method: str, options: dict[str, Any]
) -> None:
    found = save(tmp_path, base, method, **options)
    assert found.largest_difference < 1e-5
    assert found.tolerance == 1e-3


def test_long_answers_are_compared_per_token(tmp_path: Path) -> None:
    model = attach("llama", "lora", tmp_path)
    asked = probes(model)
    with torch.no_grad():
        for batch, found in zip(asked, answers(model, asked), strict=True):
            assert batch.labels is not None
            tokens = (batch.labels >= 0).sum(1)
            torch.testing.assert_close(found * tokens, model(batch).scores.double())
    assert tokens.max() > 1


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.1), ("float16", 0.02)])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_half_precision_may_round(tmp_path: Path, method: str, dtype: str, most: float) -> None:
    found = save(tmp_path, "llama", method, dtype=dtype)
    assert 0 < found.largest_difference < found.tolerance == most


def test_in_a_mixture_a_token_may_choose_another_expert(tmp_path: Path) -> None:
    found = save(tmp_path, "mixtral", "lora")
    assert found.largest_difference < 1e-5
    assert found.tolerance == 0.1


@pytest.mark.parametrize("base", ["llama", "t5"])
def test_full_fine_tuning_of_tied_weights_keeps_them(tmp_path: Path, base: str) -> None:
    model = attach(base, "full", tmp_path)
    if base == "llama":
        model.base.backbone.lm_head.weight = model.base.backbone.model.embed_tokens.weight
        model.base.backbone.config.tie_word_embeddings = True
    found = save_model(model, tmp_path / "model", settings_of("full"), probes=probes(model))
    assert found is not None
    assert found.largest_difference < 1e-5
    loaded = load_model(tmp_path / "model").backbone
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight


def _refused(model: AttachedModel, folder: Path, method: str) -> RunError:
    with pytest.raises(RunError, match="gives other scores") as caught:
        save_model(model, folder / "model", settings_of(method), probes=probes(model))
    assert not (folder / "model").exists()
    assert not (folder / ".model.partial").exists()
    return caught.value


def test_a_merge_that_loses_the_update_is_refused_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(part: LoraPart) -> None:
        part._tuner.unload()

    monkeypatch.setattr(LoraPart, "merge", forget)
    error = _refused(attach("llama", "lora", tmp_path), tmp_path, "lora")
    assert "a row of 'mood' was" in error.problem
    assert "0.001 x (1 + the score)" in error.allowed
    assert "export: false" in error.action
    assert "model.dtype" not in error.action
    half = attach("llama", "lora", tmp_path, dtype="bfloat16")
    with torch.no_grad():
        for parameter in half.groups()[0].parameters:
            parameter.mul_(5)
    assert "model.dtype: float32" in _refused(half, tmp_path, "lora").action


@pytest.mark.parametrize(
    ("method", "options"),
    [("lora", {"lora": {"target_modules": ["lm_head"]}}), ("full", {})],
)
def test_a_weight_that_the_embedding_uses_as_well_is_seen(
    tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    model = attach("llama", method, tmp_path, **options)
    backbone = model.base.backbone
    # As if nobody had looked for it when the method was attached; full training may do it.
    weight = getattr(backbone.lm_head, "base_layer", backbone.lm_head).weight
    backbone.model.embed_tokens.weight = weight
    backbone.config.tie_word_embeddings = True
    if method == "lora":
        _refused(model, tmp_path, method)
    else:
        save_model(model, tmp_path / "model", settings_of(method), probes=probes(model))


def test_another_saved_kept_adapter_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attach("bert", "mtl-lora", tmp_path)
    kept = {name: torch.zeros_like(value) for name, value in model.kept().items()}
    monkeypatch.setattr(model, "kept", lambda: kept)
    _refused(model, tmp_path, "mtl-lora")


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    model = attach("llama", "lora", tmp_path)
    asked = probes(model)
    good = answers(model, asked)
    for place in (0, -1):
        bad = [scores.clone() for scores in good]
        bad[place][0] = torch.nan
        with pytest.raises(RunError, match="is nan"):
            check_agreement(good, bad, asked, model.base)
        with pytest.raises(RunError, match="was nan"):
            check_agreement(bad, good, asked, model.base)


def test_without_probes_the_model_given_stays(tmp_path: Path) -> None:
    model = attach("llama", "lora", tmp_path)
    asked = probes(model)
    before = answers(model, asked)
    assert save_model(model, tmp_path / "model", settings_of("lora")) is None
    for one, other in zip(answers(model, asked), before, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
