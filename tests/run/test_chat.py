"""A run that asks through the chat template, from its plan to what answers in its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from peml.cli.tasks.command import tasks_app
from peml.config.loading import load_config
from peml.data.encoding import encode_rows
from peml.data.settings import TasksSettings, select_tasks
from peml.errors import ModelError, TaskError
from peml.models import load_family
from peml.models.loading import identify_model
from peml.run.pipeline import fit, plan
from peml.serving import load
from peml.tasks import Chat, TaskRenderer, load_task_file
from peml.tasks.instructions import split_row
from peml.testing.models import save_tiny_model, tiny_tokenizer
from tests.e2e.toy import toy_config

pytestmark = pytest.mark.e2e

# Turns end with a token that no file of the model names as one that ends a text.
TEMPLATE = (
    "{% for m in messages %}<unk>{{ m['role'] }} {{ m['content'] }}<mask>{% endfor %}"
    "{% if add_generation_prompt %}<unk>assistant {% endif %}"
)
MASK = 4
ROOT = Path(__file__).parents[2]


@pytest.fixture
def chats(tmp_path: Path) -> list[str]:
    """Overrides that let the toy's decoder chat."""
    save_tiny_model("llama", tmp_path / "llama")
    tokenizer = tiny_tokenizer("causal")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "llama")
    return [
        f"model.name={tmp_path / 'llama'}",
        "tasks.chat={system: Be brief.}",
        "tasks.shots=1",
        "tasks.include=[rewrite]",
    ]


def test_a_model_that_learns_to_chat_answers_and_stops(
    toys: Path, tmp_path: Path, chats: list[str]
) -> None:
    path = toy_config(toys, "causal", "lora", training={"epochs": 12})
    config = load_config(path, chats)
    run = fit(config, tmp_path / "run")
    assert run.results.tasks["rewrite"].value >= 0.4  # texts that end where the turn does
    before = json.loads((run.folder / "plan.json").read_text())["identity"]["model"]

    # what answers in its place asks the same way, and other programs can
    predictor = load(run.folder, torch.device("cpu"))
    task = predictor.task("rewrite")
    assert predictor.base.family.chat_template(task) == TEMPLATE
    example = TaskRenderer(task).render({"text": "dog"}, 0, labelled=False)
    (ids,) = encode_rows([example], task, predictor.base.family, "generate").rows[0]["input_ids"]
    text = predictor.base.family.spelling.decode(ids)
    assert text.startswith("<unk>system Be brief.<mask><unk>user say ")
    assert text.endswith("<mask><unk>user say dog<mask><unk>assistant ")
    assert text.count("<unk>") == 5
    found = predictor.predict("rewrite", [{"text": word} for word in ("dog", "box", "man")])
    assert [p.value for p in found].count("") == 0
    stored = json.loads((run.folder / "model/backbone/generation_config.json").read_text())
    assert MASK in stored["eos_token_id"]

    # another template is another model
    (tmp_path / "llama" / "chat_template.jinja").write_text(f"Chat: {TEMPLATE}")
    tasks = predictor.base.tasks
    after = identify_model(config.model, load_family(config.model), tasks)
    assert {part for part in before if before[part] != after[part]} == {"chat template"}


def test_models_without_a_chat_template_are_refused(toys: Path, tmp_path: Path) -> None:
    for family, message in (("encoder", "reads no chats"), ("causal", "has no chat template")):
        with pytest.raises(ModelError, match=message):
            plan(load_config(toy_config(toys, family, "lora"), ["tasks.chat=true"]))


def test_a_config_sets_the_chat_of_every_task() -> None:
    def chat(**settings: object) -> list[Chat | None]:
        tasks = select_tasks(TasksSettings.model_validate({"suite": "demo", **settings}))
        return [task.chat for task in tasks]

    assert set(map(str, chat())) == set(map(str, chat(chat=False))) == {"None"}
    assert all(found == Chat() for found in chat(chat=True))
    assert all(found == Chat(system="Hi.") for found in chat(chat={"system": "Hi."}))


def test_rows_are_shown_as_a_model_is_asked(
    tmp_path: Path, chats: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    asked = ["show", "demo/topics", "--row", "3"]
    model = ["--model", str(tmp_path / "llama")]
    shown = CliRunner().invoke(tasks_app, [*asked, *model, "--chat"], catch_exceptions=False)
    assert "<unk>user " in shown.output
    assert "Answer:<mask><unk>assistant" in shown.output
    plain = CliRunner().invoke(tasks_app, [*asked, *model], catch_exceptions=False)
    assert "<unk>" not in plain.output
    assert "<s>" in plain.output
    refused = CliRunner().invoke(tasks_app, [*asked, "--chat"])
    assert isinstance(refused.exception, TaskError)


def test_the_example_of_a_chat_model_trains_on_what_it_says(
    tmp_path: Path, chats: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))
    small = [chats[0], "training.epochs=1", "tasks.rows=8", "tasks.evaluation_rows=4"]
    small += ["method.r=2", "evaluation.max_new_tokens=4", "export=false"]
    run = fit(load_config(ROOT / "examples/chat.yaml", small), tmp_path / "run")
    assert list(run.results.tasks) == ["topics", "assistant"]
    planned = json.loads((run.folder / "plan.json").read_text())
    assert planned["tasks"][1]["reported"] == 4
    assert not any(task["cut"] for task in planned["tasks"])


def test_every_row_of_the_example_is_asked_as_a_conversation(chats: list[str]) -> None:
    task = load_task_file(ROOT / "examples/assistant.yaml")
    family = load_family(load_config(ROOT / "examples/chat.yaml", chats[:1]).model)
    for split, count in (("train", 12), ("validation", 4)):
        lines = (ROOT / f"examples/assistant/{split}.jsonl").read_text().splitlines()
        rows = [split_row(task.format, json.loads(line)) for line in lines]
        assert len(rows) == count
        for number, row in enumerate(rows):
            example = TaskRenderer(task).render(row, number)
            (sequence,) = family.encode(task, example, "train")
            asked = family.spelling.decode(sequence.input_ids)
            assert asked.startswith("<unk>system You answer questions about")
            assert f"<unk>assistant {row['answer']}<mask>" in asked
