"""From a name to a family and a frozen model, or to one clear message."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub import get_session
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from peml.errors import ModelError
from peml.models import ModelSettings, check_task_types, load_backbone, load_family
from peml.models.families import CausalFamily, EncoderFamily, Family, Seq2SeqFamily
from peml.models.reading import detect_family, from_pretrained
from peml.models.source import HTTP_ERROR
from peml.testing.models import (
    TINY_FAMILIES,
    save_tiny_model,
    tiny_model,
    tiny_tokenizer,
)
from tests.tasks.examples import choice, generation, sentiment


def settings(folder: Path | str, **values: Any) -> ModelSettings:
    return ModelSettings.model_validate({"name": str(folder), "max_length": 32} | values)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def broken(bert: Path, tmp_path: Path) -> Path:
    """A copy a test may damage."""
    return Path(shutil.copytree(bert, tmp_path / "model"))


@pytest.mark.parametrize("name", sorted(TINY_FAMILIES))
def test_family_is_read_from_a_saved_model(name: str, tmp_path: Path) -> None:
    tiny_model(name).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.architectures
    assert detect_family(config) == TINY_FAMILIES[name].kind


@pytest.mark.parametrize(
    ("name", "head", "family"),
    [
        ("bert", "ForMaskedLM", "encoder"),
        ("bert", "LMHeadModel", "causal"),
        ("roberta", "ForSequenceClassification", "encoder"),
        ("gpt2", "Model", "causal"),
        ("llama", "Model", "causal"),
        ("t5", "Model", "seq2seq"),
    ],
)
def test_the_saved_head_decides_where_it_says_something(name: str, head: str, family: str) -> None:
    config = tiny_model(name, head=head).config
    config.architectures = [TINY_FAMILIES[name].stem + head]
    assert detect_family(config) == family


def test_a_model_of_another_kind_is_refused() -> None:
    config = AutoConfig.for_model("vit")
    with pytest.raises(ModelError, match="'vit' belongs to no known family") as caught:
        detect_family(config)
    assert "causal, encoder, seq2seq" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "family"), [("bert", EncoderFamily), ("llama", CausalFamily), ("t5", Seq2SeqFamily)]
)
def test_backbone_is_frozen_and_whole(name: str, family: type[Family], tmp_path: Path) -> None:
    backbone = load_backbone(settings(save_tiny_model(name, tmp_path, seed=4)))
    assert type(backbone.family) is family
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert not backbone.model.training
    saved = tiny_model(name, seed=4).state_dict()
    loaded = backbone.model.state_dict()
    assert loaded
    assert all(torch.equal(value, saved[key]) for key, value in loaded.items())


def test_settings_reach_the_model(bert: Path) -> None:
    backbone = load_backbone(settings(bert, dtype="bfloat16", attention="eager"))
    assert backbone.model.dtype == torch.bfloat16
    assert backbone.model.config._attn_implementation == "eager"
    assert not [name for name, _ in backbone.model.named_parameters() if "pooler" in name]


def test_checkpointing_gives_the_same_states(bert: Path) -> None:
    plain, saving = (
        load_backbone(settings(bert, gradient_checkpointing=on)).model for on in (False, True)
    )
    on = [getattr(module, "gradient_checkpointing", False) for module in saving.modules()]
    assert any(on)
    ids = torch.arange(8, 16)[None]
    torch.testing.assert_close(saving(ids).last_hidden_state, plain(ids).last_hidden_state)


def test_an_unknown_name_is_one_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="no/where-at-all") as caught:
        load_family(settings(tmp_path / "no/where-at-all"))
    assert "check the name" in str(caught.value)


def test_a_hub_that_is_not_reached_says_how_to_do_without() -> None:
    def unreached(*_: Any, **__: Any) -> NoReturn:
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.")

    loader = Mock(from_pretrained=unreached)
    with pytest.raises(ModelError, match="couldn't connect") as caught:
        from_pretrained(loader, ModelSettings(name="some/model"), "config")
    assert "hf download some/model --local-dir FOLDER" in caught.value.action


def test_a_download_that_breaks_off_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's library passes on what its HTTP client raises, which is no OSError."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(HTTP_ERROR) as said:
        get_session().get("http://127.0.0.1:9/x")
    loader = Mock(from_pretrained=Mock(side_effect=said.value))
    with pytest.raises(ModelError, match="weights of model 'some/model' can't be loaded") as caught:
        from_pretrained(loader, ModelSettings(name="some/model"), "weights")
    assert "the download goes on" in caught.value.action


def test_a_folder_has_no_revisions(bert: Path) -> None:
    for name in (str(bert), "minilm"):
        with pytest.raises(ModelError, match=r"model\.revision is 'v2', and .* is no model of the"):
            load_family(ModelSettings(name=name, revision="v2"))


def test_an_empty_folder_is_named_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ModelError, match="can't be loaded") as caught:
        load_family(settings(tmp_path))
    assert "notes.txt" in str(caught.value)
    assert "save_pretrained" in str(caught.value)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_truncated_file_is_one_clear_message(file: str, broken: Path) -> None:
    content = (broken / file).read_bytes()
    (broken / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="can't be loaded"):
        load_backbone(settings(broken))


@pytest.mark.parametrize("change", [{"hidden_size": None}, {"num_attention_heads": 0}])
def test_a_config_of_wrong_values_is_one_clear_message(
    change: dict[str, Any], broken: Path
) -> None:
    file = broken / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match="can't be loaded"):
        load_backbone(settings(broken))


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_outputs_that_a_config_asks_for_are_left_out(family: str, tmp_path: Path) -> None:
    plain = load_backbone(settings(save_tiny_model(family, tmp_path / "plain"))).model
    folder = save_tiny_model(family, tmp_path / "asking")
    file = folder / "config.json"
    asked = {"return_dict": False, "output_attentions": True, "output_hidden_states": True}
    file.write_text(json.dumps(json.loads(file.read_text()) | asked))
    model = load_backbone(settings(folder)).model
    ids = torch.arange(8, 16)[None]
    given = {"input_ids": ids} | ({"decoder_input_ids": ids} if family == "t5" else {})
    found, expected = model(**given), plain(**given)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found[0], expected[0])
    model.save_pretrained(tmp_path / "saved")  # refuses sdpa with attentions


def test_weights_of_another_shape_are_refused(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(ModelError, match="in another shape"):
        load_backbone(settings(broken))


@pytest.mark.parametrize("end", ["query.bias", "LayerNorm.weight"])
def test_files_without_a_small_weight_are_refused(broken: Path, end: str) -> None:
    path = broken / "model.safetensors"
    held = load_file(path)
    lost = next(key for key in held if key.endswith(end))
    save_file({k: v for k, v in held.items() if k != lost}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lack 1 weights") as caught:
        load_backbone(settings(broken))
    assert lost in caught.value.problem


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_shard_that_is_gone_or_cut_short_is_named(broken: Path, damage: str) -> None:
    (broken / "model.safetensors").unlink()
    tiny_model("bert").save_pretrained(broken, max_shard_size="20KB")
    shard = sorted(broken.glob("model-*.safetensors"))[1]
    content = shard.read_bytes()
    shard.unlink()
    if damage == "cut":
        shard.write_bytes(content[:99])
    with pytest.raises(ModelError) as caught:
        load_backbone(settings(broken))
    assert caught.value.action.endswith(f"missing or damaged in {broken}: {shard.name}")


@pytest.mark.parametrize("name", ["bert", "llama", "roberta", "t5"])
def test_a_model_without_its_tokenizer_is_refused(name: str, tmp_path: Path) -> None:
    folder = save_tiny_model(name, tmp_path / "model")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="tokenizer") as caught:
        load_family(settings(folder))
    assert not caught.value.problem.rstrip().endswith(":")
    assert "save the tokenizer of its base model there" in caught.value.action


def test_a_tokenizer_that_the_library_can_not_read_is_no_traceback(broken: Path) -> None:
    """As one of a newer version: "data did not match any variant of untagged enum"."""
    path = broken / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"the tokenizer of .* can't be loaded: data did not"):
        load_family(settings(broken))


def test_a_library_that_is_missing_is_not_taken_for_a_missing_file(broken: Path) -> None:
    library = ImportError("Loading a GPTQ quantized model requires optimum")
    loader = SimpleNamespace(from_pretrained=Mock(side_effect=library))
    with pytest.raises(ModelError, match="requires optimum") as caught:
        from_pretrained(loader, settings(broken), "weights")
    assert "install that package" in caught.value.action


def test_pickled_weights_are_not_read(broken: Path) -> None:
    torch.save(tiny_model("bert").state_dict(), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="weights") as caught:
        load_backbone(settings(broken))
    assert "pytorch_model.bin" in str(caught.value)


def test_weights_a_family_would_have_to_make_up_are_refused(bert: Path) -> None:
    with pytest.raises(ModelError, match="lack"):
        load_backbone(settings(bert, family="causal"))


@pytest.mark.parametrize(
    ("name", "head"), [("llama", None), ("bert", "Model"), ("bert", "ForMaskedLM")]
)
def test_files_with_more_layers_than_the_config_are_refused(
    name: str, head: str | None, tmp_path: Path
) -> None:
    folder = save_tiny_model(name, tmp_path, head=head)
    assert load_backbone(settings(folder))  # a head that isn't used is fine
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"num_hidden_layers": 1}))
    with pytest.raises(ModelError, match=r"layers that its config lacks, '[a-z.]+\.1\."):
        load_backbone(settings(folder))


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("llama", "model.layers.0.self_attn.q_proj.bias"),  # attention_bias is false
        ("llama", "model.layers.0.self_attn.q_norm.weight"),
        ("llama", "model.layers.0.self_attn.q_proj.lora_A.default.weight"),
        ("llama", "lm_head.bias"),
        ("bert", "encoder.layer.0.attention.q_norm.weight"),
        ("bert", "bert.encoder.layer.0.attention.q_norm.weight"),
    ],
)
def test_weights_that_the_config_leaves_out_are_refused(
    family: str, key: str, tmp_path: Path
) -> None:
    folder = save_tiny_model(family, tmp_path)
    _add_weight(folder, "model.layers.0.self_attn.rotary_emb.inv_freq")  # what old files have
    assert load_backbone(settings(folder))
    _add_weight(folder, key)
    with pytest.raises(ModelError, match="weights that the model of its config leaves out") as told:
        load_backbone(settings(folder))
    assert repr(key) in told.value.problem


def _add_weight(folder: Path, key: str) -> None:
    path = folder / "model.safetensors"
    save_file(load_file(path) | {key: torch.ones(4)}, path, metadata={"format": "pt"})


def test_code_in_a_model_folder_runs_only_if_asked(broken: Path, tmp_path: Path) -> None:
    config = json.loads((broken / "config.json").read_text()) | {
        "model_type": "homemade",
        "auto_map": {"AutoConfig": "homemade.HomemadeConfig"},
    }
    (broken / "config.json").write_text(json.dumps(config))
    trace = tmp_path / "ran"
    (broken / "homemade.py").write_text(f"open({str(trace)!r}, 'w').write('x')\n")
    with pytest.raises(ModelError) as caught:
        load_family(settings(broken))
    assert "set model.trust_remote_code: true" in str(caught.value)
    assert not trace.exists()


def test_a_hub_model_with_code_that_was_not_run_asks_for_none(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local folder with such a config is refused; a hub's gets Transformers' own class."""
    monkeypatch.setattr("peml.models.reading.check_source", lambda *_, **__: None)
    config = json.loads((broken / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "homemade.HomemadeModel"}
    (broken / "config.json").write_text(json.dumps(config))
    model = load_backbone(settings(broken)).model
    assert not hasattr(model.config, "auto_map")


def test_a_tokenizer_without_padding_uses_its_end(tmp_path: Path) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer("causal")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    family = load_family(settings(tmp_path))
    assert family.tokenizer.pad_token_id == tokenizer.eos_token_id
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"eos_token_id": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="no padding and no end-of-text"):
        load_family(settings(tmp_path))


def test_tasks_a_family_cannot_do_are_all_named(bert: Path) -> None:
    encoder = load_family(settings(bert))
    check_task_types(encoder, [sentiment(), choice()])
    with pytest.raises(ModelError) as caught:
        check_task_types(encoder, [generation(), sentiment(), generation(name="summary")])
    message = str(caught.value)
    assert "rewrite (generation), summary (generation)" in message
    assert "tasks.exclude: [rewrite, summary]" in message
    assert "mood" not in message
    text = CausalFamily(tiny_tokenizer("causal"), max_length=32, pooling="mean")
    check_task_types(text, [generation(), sentiment(), choice()])


def test_prompts_have_to_show_a_field(bert: Path) -> None:
    text = CausalFamily(tiny_tokenizer("causal"), max_length=32, pooling="mean")
    constant = sentiment(template="Good or bad?")
    with pytest.raises(ModelError, match="task 'mood': the template shows no field"):
        check_task_types(text, [constant])
    check_task_types(load_family(settings(bert)), [constant])  # reads the inputs themselves
    columns = {"inputs": ["sentence", "more"], "label": "label"}
    with pytest.warns(UserWarning, match="prompts don't show 'more' of columns.inputs"):
        check_task_types(text, [sentiment(columns=columns)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_task_types(text, [sentiment(columns=columns, header="{{ more }}")])


def test_fields_that_only_the_template_shows_are_named_to_encoders(tmp_path: Path) -> None:
    encoder = load_family(settings(save_tiny_model("bert", tmp_path / "encoder")))
    shown: dict[str, Any] = {
        "columns": {"inputs": ["sentence"], "extra": ["note", "code"], "label": "label"},
        "template": "{{ sentence }} {{ note }}",
    }
    with pytest.warns(UserWarning, match="reads the input columns alone, not 'note', which"):
        check_task_types(encoder, [sentiment(**shown)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_task_types(encoder, [sentiment(**shown, segments=["{{ sentence }}"]), sentiment()])
        text = load_family(settings(save_tiny_model("llama", tmp_path / "decoder")))
        check_task_types(text, [sentiment(**shown)])


@pytest.mark.minilm
def test_minilm_is_an_encoder_with_its_official_weights() -> None:
    backbone = load_backbone(ModelSettings())
    assert type(backbone.family) is EncoderFamily
    assert backbone.model.config.hidden_size == 384
    assert sum(p.numel() for p in backbone.model.parameters()) == pytest.approx(22.5e6, rel=0.02)
