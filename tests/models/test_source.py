"""Model folders that bring an adapter, code or ways out: refused before anything is used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from peml.cli import app
from peml.errors import ModelError, PemlError
from peml.models import ModelSettings, load_backbone, load_family
from peml.testing.models import save_tiny_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def folder(llama: Path, tmp_path: Path) -> Path:
    """A copy a test may change."""
    return Path(shutil.copytree(llama, tmp_path / "model"))


def _settings(folder: Path, **values: Any) -> ModelSettings:
    return ModelSettings.model_validate({"name": str(folder), "max_length": 32} | values)


def _edit(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(content | values))


def _add_adapter(folder: Path, base: str) -> None:
    _edit(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path=base)


def test_an_adapter_beside_the_weights_is_refused(folder: Path) -> None:
    _add_adapter(folder, "some/base")
    for load in (load_family, load_backbone):
        with pytest.raises(ModelError, match="a LORA adapter beside its weights") as caught:
            load(_settings(folder))
        assert "remove the adapter_* files" in caught.value.action
    with pytest.raises(PemlError, match="beside its weights"):
        app(args=["doctor", str(folder)])


def test_an_adapter_alone_is_named_with_its_base(tmp_path: Path) -> None:
    _add_adapter(tmp_path, "some/base")
    with pytest.raises(ModelError, match="is a LORA adapter of 'some/base', not a model") as caught:
        load_family(_settings(tmp_path))
    assert "merge_and_unload" in caught.value.action


@pytest.mark.parametrize("content", ["{", "[]", '{"peft_type": 3}'])
def test_a_damaged_adapter_is_one_all_the_same(content: str, folder: Path) -> None:
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match="has an adapter beside its weights"):
        load_family(_settings(folder))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_is_refused_without_a_grant_even_where_it_is_not_needed(
    file: str, folder: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "ran"
    code = f"open({str(trace)!r}, 'w').close()\nclass A: ...\n"
    (folder / "code.py").write_text(code)
    autos = {"AutoConfig": "code.A", "AutoModelForCausalLM": "code.A"}
    tokenizers = {"AutoTokenizer": ["code.A", None]}
    _edit(folder / file, auto_map=autos if file == "config.json" else tokenizers)
    with pytest.raises(ModelError, match=f"{file} of model .* ask for Python code") as caught:
        load_backbone(_settings(folder))
    assert "--trust-remote-code" in caught.value.action
    assert "type 'llama': remove auto_map" in caught.value.action
    assert not trace.exists()


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"configuration_files": ["config.json", "../other/config.4.0.0.json"]}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../other/tokenizer.4.0.json"]}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["/other/tokenizer.4.0.json"]}),
        ("model.safetensors.index.json", {"weight_map": {"a": "../other/model.safetensors"}}),
        ("model.safetensors.index.json", {"weight_map": {"a": ["x"]}}),
    ],
)
def test_names_of_files_elsewhere_are_refused(
    file: str, values: dict[str, Any], folder: Path
) -> None:
    _edit(folder / file, **values)
    with pytest.raises(ModelError, match=rf"{file} of model .* names the file"):
        load_family(_settings(folder))


def test_a_tokenizer_gets_nothing_but_its_files(folder: Path) -> None:
    _edit(folder / "tokenizer_config.json", init_inputs=["/etc/passwd"])
    with pytest.raises(ModelError, match="/etc/passwd"):
        load_family(_settings(folder))
