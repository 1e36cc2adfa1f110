"""READMEs of decoders: their lines give a model the tokens that the run's rows have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from transformers import AutoTokenizer

from peml.export import export_model, load_model
from peml.export.readme import write_readme
from peml.export.saved import open_model
from peml.models import TaskModel
from peml.tasks import Chat
from peml.testing import batch_of, save_tiny_model
from tests.export.test_transformers_export import readme_code
from tests.export.trained import run_of

pytestmark = pytest.mark.usefixtures("one_process")


def _base_that_ends_texts(folder: Path) -> None:
    """A base model whose tokenizer puts an end token after every text."""
    path = save_tiny_model("llama", folder / "llama") / "tokenizer.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    for frame in ("single", "pair"):
        end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
        said["post_processor"][frame].append(end)
    said["post_processor"]["special_tokens"]["</s>"] = {
        "id": "</s>",
        "ids": [2],
        "tokens": ["</s>"],
    }
    path.write_text(json.dumps(said), encoding="utf-8")


def _read_by_readme(out: Path, prompt: str) -> list[int]:
    """The tokens that the README's lines make of the first task's prompt."""
    namespace: dict[str, Any] = {}
    code = readme_code(out).replace("the row's prompt", prompt)
    exec(code, namespace)
    ids: list[int] = namespace["row" if "row" in namespace else "ids"][0].tolist()
    return ids


def _read(model: TaskModel, text: str) -> list[int]:
    """The tokens that the run has of the first task's prompt."""
    batch = batch_of(model, [(0, {"text": text, "label": 1})], "generate")
    ids: list[int] = batch.input_ids[0].tolist()
    return ids


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("lora+context", "cartridge"),
        ("lora+context", "transformers"),
        ("lora+prefix", "transformers"),
    ],
)
def test_a_readmes_lines_read_the_prompt_as_the_run(
    tmp_path: Path, method: str, name: str, *, ends: bool
) -> None:
    if ends:
        _base_that_ends_texts(tmp_path)
    run, out = run_of("llama", method, tmp_path), tmp_path / "out"
    export_model(run, out, name)
    ids, wanted = _read_by_readme(out, "the dog It is"), _read(load_model(run / "model"), "the dog")
    if (out / "contexts").is_dir():  # all tokens are given, those of the cache too
        ids = ids[len(json.loads((out / "contexts/mood.json").read_text())["token_ids"]) :]
    assert ids == wanted
    assert ("No prompt ended with them" in (out / "README.md").read_text()) == ends


def test_llama_cpp_ends_no_prompt(tmp_path: Path) -> None:
    _base_that_ends_texts(tmp_path)
    run, out = run_of("llama", "lora", tmp_path), tmp_path / "out"
    assert AutoTokenizer.from_pretrained(tmp_path / "llama")("a").input_ids[-1] == 2
    export_model(run, out, "gguf")
    fields = GGUFReader(out / "model.gguf").fields
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert fields["tokenizer.ggml.add_eos_token"].contents() is False


def test_a_start_token_in_a_template_is_named(tmp_path: Path) -> None:
    run = run_of("llama", "lora", tmp_path)
    saved, model = open_model(run / "model"), load_model(run / "model")
    first, *others = model.tasks
    model.tasks = (first.model_copy(update={"template": f"<s>{first.template}"}), *others)
    ids = _read(model, "the dog")
    assert ids[0] == 1 != ids[1]
    write_readme(tmp_path, "gguf", saved, model, tasks=["mood"])
    text = (tmp_path / "README.md").read_text()
    assert "A prompt of `mood` begins with `<s>`" in text
    assert "of `same` begins" not in text


def test_a_chats_template_is_named(tmp_path: Path) -> None:
    run = run_of("llama", "lora", tmp_path)
    saved, model = open_model(run / "model"), load_model(run / "model")
    chat = Chat(system="Be brief.")
    model.tasks = (model.tasks[0].model_copy(update={"chat": chat}), *model.tasks[1:])
    write_readme(tmp_path, "gguf", saved, model, tasks=["mood"])
    text = re.sub(r"\s+", " ", (tmp_path / "README.md").read_text())
    assert "`mood` is asked through the chat template" in text
    assert '{"system": "Be brief."}' in text
    assert "`same` is asked" not in text
