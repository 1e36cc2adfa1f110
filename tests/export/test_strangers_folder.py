"""A stranger's model folder, altered anywhere with checksums recomputed.

No code in it runs, no file outside is read, and it is refused or predicts the same.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from peml.config.loading import load_config
from peml.errors import CheckpointError, ModelError, PemlError
from peml.export import export_model, load_model, save_model
from peml.run.preparation import Prepared, prepare
from peml.run.training import attach
from peml.serving import Prediction, load
from tests.e2e.toy import toy_config
from tests.export.folders import reseal

MARKER = "ran"
Alter = Callable[[Path], object]


@pytest.fixture(scope="module")
def prepared(toys: Path) -> Prepared:
    return prepare(load_config(toy_config(toys, "causal", "lora")))


@pytest.fixture(scope="module")
def original(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "model"
    save_model(attach(prepared, torch.device("cpu"), None), folder, prepared.config.method)
    return folder


@pytest.fixture(scope="module")
def said(original: Path) -> list[Prediction]:
    return _predict(original)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to alter."""
    return Path(shutil.copytree(original, tmp_path / "model"))


_opened: list[str] = []
_listening = False


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening and event == "open" and isinstance(arguments[0], (str, bytes)):
        _opened.append(str(arguments[0]))


sys.addaudithook(_listen)


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every file that is opened while a test runs."""
    global _listening
    _opened.clear()
    _listening = True
    yield _opened
    _listening = False


def _predict(folder: Path) -> list[Prediction]:
    model = load(folder)
    task = model.tasks[0]
    row = dict.fromkeys(task.columns.inputs, "the film was good")
    return model.predict(task.name, [row, {**row, task.columns.inputs[0]: "a red ball"}])


def _edit(name: str, **values: Any) -> Alter:
    def alter(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps(content | values))

    return alter


def _drop(name: str, field: str) -> Alter:
    def alter(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        content.pop(field)
        (folder / name).write_text(json.dumps(content))

    return alter


def _model(**values: Any) -> Alter:
    def alter(folder: Path) -> None:
        content = json.loads((folder / "peml.json").read_text())
        content["model"] |= values
        (folder / "peml.json").write_text(json.dumps(content))

    return alter


def _asking_for_code(name: str) -> Alter:
    def alter(folder: Path) -> None:
        marker = str(folder.parent / MARKER)
        code = f"open({marker!r}, 'w').close()\nclass A: ...\n"
        (folder / "backbone" / "code.py").write_text(code)
        names = ("AutoConfig", "AutoModelForCausalLM", "AutoModel")
        autos: dict[str, Any] = dict.fromkeys(names, "code.A")
        autos["AutoTokenizer"] = ["code.A", None]
        _edit(f"backbone/{name}", auto_map=autos)(folder)

    return alter


def _linked(name: str) -> Alter:
    def alter(folder: Path) -> None:
        outside = folder.parent / "outside"
        outside.mkdir()
        shutil.move(folder / name, outside / "file")
        (folder / name).symlink_to(outside / "file")

    return alter


def _copied(name: str) -> Alter:
    return lambda folder: shutil.copy(folder / "backbone/model.safetensors", folder / name)


def _generate_by_code(folder: Path) -> None:
    place = folder / "backbone" / "custom_generate"
    place.mkdir()
    marker = str(folder.parent / MARKER)
    (place / "generate.py").write_text(f"open({marker!r}, 'w').close()\n")


ALTERED: dict[str, Alter] = {
    "code, config": _asking_for_code("config.json"),
    "code, tokenizer": _asking_for_code("tokenizer_config.json"),
    "code, generate": _generate_by_code,
    "trust in the folder": _model(trust_remote_code=True),
    "another name": _model(name="minilm"),
    "another dtype": _model(dtype="float16"),
    "a type that is none": _model(dtype=3),
    "unknown setting": _model(cache_dir="/tmp"),
    "no tasks": _edit("peml.json", tasks=[]),
    "tasks of another kind": _edit("peml.json", tasks={"a": 1}),
    "another template": lambda f: (f / "peml.json").write_text(
        (f / "peml.json").read_text().replace("{{", "x {{")
    ),
    "prefix that is not there": _edit("peml.json", prefix_active=[True, True]),
    "prefix of another kind": _edit("peml.json", prefix_active="yes"),
    "no method": _drop("peml.json", "method"),
    "method of another kind": _edit("peml.json", method=[1]),
    "not a description": lambda f: (f / "peml.json").write_text("[]"),
    "deep nesting": lambda f: (f / "peml.json").write_text("[" * 100_000),
    "adapter": _edit("backbone/adapter_config.json", base_model_name_or_path="/outside/base"),
    "configs elsewhere": _edit(
        "backbone/config.json", configuration_files=["config.json", "../../outside/config.4.0.json"]
    ),
    "tokenizers elsewhere": _edit(
        "backbone/tokenizer_config.json", fast_tokenizer_files=["../../outside/tokenizer.4.0.json"]
    ),
    "tokenizer file elsewhere": _edit(
        "backbone/tokenizer_config.json", tokenizer_file="/outside/t.json", vocab_file="/outside/v"
    ),
    "weights elsewhere": _edit(
        "backbone/model.safetensors.index.json",
        weight_map={"a": "../../outside/model.safetensors"},
        metadata={},
    ),
    "another activation": _edit("backbone/config.json", hidden_act="relu"),
    "another size": _edit("backbone/config.json", hidden_size=64),
    "another type": _edit("backbone/config.json", model_type="gpt2"),
    "another end": _edit("backbone/tokenizer_config.json", eos_token="<unk>"),
    "penalty": _edit("backbone/generation_config.json", repetition_penalty=9.0),
    "weights cut": lambda f: (f / "backbone/model.safetensors").write_bytes(
        (f / "backbone/model.safetensors").read_bytes()[:-7]
    ),
    "weights altered": lambda f: (f / "backbone/model.safetensors").write_bytes(
        (f / "backbone/model.safetensors").read_bytes()[:-1] + b"\x41"
    ),
    "pickled weights": lambda f: (f / "backbone/pytorch_model.bin").write_bytes(b"\x80\x04."),
    "tokenizer removed": lambda f: (f / "backbone/tokenizer.json").unlink(),
    "prefix added": lambda f: shutil.copy(
        f / "backbone/model.safetensors", f / "prefix.safetensors"
    ),
    "prompt added": lambda f: shutil.copy(
        f / "backbone/model.safetensors", f / "prompt.safetensors"
    ),
    "kept added": lambda f: shutil.copy(
        f / "backbone/model.safetensors", f / "adapter.safetensors"
    ),
    "linked weights": _linked("backbone/model.safetensors"),
    "linked config": _linked("backbone/config.json"),
    "linked description": _linked("peml.json"),
    "linked folder": _linked("backbone"),
    "linked LoRA": _linked("lora"),
}


@pytest.mark.parametrize("with_digest", [False, True])
@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_folder_is_refused_or_says_the_same(
    name: str, with_digest: bool, folder: Path, said: list[Prediction], opened: list[str]
) -> None:
    ALTERED[name](folder)
    reseal(folder, with_digest=with_digest)
    opened.clear()
    try:
        answers = _predict(folder)
    except PemlError:
        pass
    else:
        # Whoever computes the digest anew has made another model; that is no alteration.
        assert with_digest or answers == said
    assert not (folder.parent / MARKER).exists()
    outside = [path for path in opened if "outside" in path]
    assert outside == []


def test_the_digest_finds_what_was_altered_with_its_checksum(folder: Path) -> None:
    ALTERED["another template"](folder)
    reseal(folder)
    with pytest.raises(CheckpointError, match="its digest is wrong"):
        load_model(folder)
    reseal(folder, with_digest=True)
    load_model(folder)


def test_trust_is_not_the_folders_to_give(folder: Path) -> None:
    stored = json.loads((folder / "peml.json").read_text())["model"]
    assert not {"trust_remote_code", "name", "revision"} & stored.keys()
    ALTERED["trust in the folder"](folder)
    reseal(folder, with_digest=True)
    with pytest.raises(CheckpointError, match="trust_remote_code: only the caller may set this"):
        load_model(folder)


def test_the_caller_can_let_code_run(folder: Path, tmp_path: Path) -> None:
    ALTERED["code, config"](folder)
    reseal(folder, with_digest=True)
    with pytest.raises(ModelError, match="ask for Python code"):
        load(folder)
    assert not (tmp_path / MARKER).exists()
    with suppress(Exception):  # its classes are none
        load(folder, trust_remote_code=True)
    assert (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    ("name", "field"),
    [("no tasks", "tasks"), ("prefix of another kind", "prefix_active"), ("no method", "method")],
)
def test_a_description_that_is_wrong_is_named_with_its_field(
    name: str, field: str, folder: Path
) -> None:
    ALTERED[name](folder)
    reseal(folder, with_digest=True)
    with pytest.raises(CheckpointError, match=rf"peml\.json has one problem:\n  {field}"):
        load_model(folder)


@pytest.mark.parametrize(("name", "part"), [("lora", "lora"), ("peft", "backbone")])
def test_an_export_copies_nothing_through_a_link(
    name: str, part: str, folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "outside"
    secret.write_text("secret")
    (folder / part / "notes.txt").symlink_to(secret)
    for sealed in (False, True):
        if sealed:
            reseal(folder, with_digest=True)
        with pytest.raises(CheckpointError, match=r"notes\.txt"):
            export_model(folder, tmp_path / "out", name)
        assert not (tmp_path / "out").exists()


def test_a_model_folder_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(folder)
    with pytest.raises(CheckpointError, match="is a link to"):
        load(run)
