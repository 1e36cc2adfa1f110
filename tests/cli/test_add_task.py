"""`peml add-task`: a finished run's model answers a task that it never saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from peml.files import checksums, read_tensors
from peml.models import TaskModel
from peml.models.families.text import CausalFamily
from peml.serving import load
from peml.tasks import TaskType
from peml.testing import batch_of, save_tiny_model, tiny_task_model
from tests.cli.commands import peml
from tests.export.trained import run_of

Capture = pytest.CaptureFixture[str]
TASK = """\
name: colour
type: classification
source: {path: rows}
columns: {inputs: [text], label: label}
template: "{{ text }} Is it red?"
labels: ["no", "yes"]
metrics: [accuracy]
"""
ROWS = [("the red ball", 1), ("the green box", 0), ("a brown fox", 0), ("a red box", 1)]


def _task(folder: Path, text: str = TASK) -> Path:
    """The task's file and its train split; there is no other split."""
    (folder / "rows").mkdir(exist_ok=True)
    lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS]
    (folder / "rows/train.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "colour.yaml").write_text(text, encoding="utf-8")
    return folder / "colour.yaml"


@pytest.mark.parametrize("of", ["adapted", "frozen", None])
def test_it_answers_as_with_the_rows_in_its_prompt(
    tmp_path: Path, capsys: Capture, of: str | None
) -> None:
    file, before = "contexts.safetensors", {}
    if of is None:
        run = run_of("llama", "lora", tmp_path)
    else:
        run = run_of("llama", "lora+context", tmp_path, context={"of": of})
        before = read_tensors(run / "model" / file)
    files = checksums(run / "model")
    old = [{"text": "a lazy dog"}, {"text": "the red fox jumps"}]
    answers = load(run).predict("mood", old)
    said = peml(capsys, "add-task", run, _task(tmp_path), "--shots", 3)
    assert said.code == 0, said
    assert load(run).predict("mood", old) == answers
    assert "added colour: a context of 3 solved rows" in said.out
    after = read_tensors(run / "model" / file)
    assert after.keys() == {*before, "colour"}
    assert all(torch.equal(after[name], held) for name, held in before.items())
    now = checksums(run / "model")
    changed = {name for name in now if now[name] != files.get(name)}
    assert changed == {file, "peml.json", "manifest.json"}
    assert now.keys() == {*files, file}
    assert not [path.name for path in run.iterdir() if path.name != "model"]

    rows = tmp_path / "new.jsonl"
    rows.write_text('{"text": "a lazy dog"}\n', encoding="utf-8")
    words = ("predict", run, "--task", "colour", "--input", rows, "--output", tmp_path / "out")
    assert peml(capsys, *words).code == 0

    model = load(run).base
    new = (len(model.tasks) - 1, {"text": "a lazy dog", "label": 0})
    shown = tiny_task_model("llama", [t.model_copy(update={"context": False}) for t in model.tasks])
    shown.family.max_length = 160
    if of != "frozen":  # the base model's are checked against those of the trained tasks
        shown.backbone.load_state_dict(model.backbone.state_dict())
        torch.testing.assert_close(_scores(model, new), _scores(shown, new), atol=1e-4, rtol=0)
    shots = model.tasks[-1].shots.examples
    assert shots == tuple(f"{ROWS[n][0]} Is it red? {('no', 'yes')[ROWS[n][1]]}" for n in (0, 1, 3))


def test_the_card_lists_it_and_keeps_what_people_wrote(tmp_path: Path, capsys: Capture) -> None:
    run, file = run_of("llama", "lora+context", tmp_path), _task(tmp_path)
    card = run / "model/README.md"
    written = "# Mine\n\nMy words.\n\n## How to use it\n\nLike this.\n"
    card.write_text(written, encoding="utf-8")
    assert peml(capsys, "add-task", run, file, "--shots", 3).code == 0
    file.write_text(TASK.replace("colour", "hue"), encoding="utf-8")
    assert peml(capsys, "add-task", run, file, "--shots", 2).code == 0
    text = card.read_text(encoding="utf-8")
    start, end = (text.index(mark) for mark in ("## Tasks added", "## How to use it"))
    assert text[:start] + text[end:] == written
    lines = [line.split("|")[1:4] for line in text[start:end].splitlines() if line.startswith("|")]
    added = [["colour", "classification", "3"], ["hue", "classification", "2"]]
    assert [[cell.strip() for cell in line] for line in lines[2:]] == added
    assert "no row of theirs was scored" in text[start:end]
    assert load(run).task("hue").name == "hue"  # the card isn't sealed


def test_no_split_but_the_shown_one_is_read(tmp_path: Path, capsys: Capture) -> None:
    run, file = run_of("llama", "lora+context", tmp_path), _task(tmp_path)
    (tmp_path / "rows/validation.jsonl").write_text("this is no JSON", encoding="utf-8")
    assert peml(capsys, "add-task", run, file, "--shots", 3).code == 0


def test_a_type_that_the_model_cannot_answer_is_refused(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file = run_of("llama", "lora+context", tmp_path), _task(tmp_path)
    files = checksums(run)
    types = CausalFamily.task_types - {TaskType.CLASSIFICATION}
    monkeypatch.setattr(CausalFamily, "task_types", types)
    said = peml(capsys, "add-task", run, file, "--shots", 3)
    assert said.code == 2
    assert "colour (classification)" in said.error
    assert checksums(run) == files


def test_a_csv_is_read_with_the_kinds_of_the_shown_rows(tmp_path: Path, capsys: Capture) -> None:
    run = run_of("llama", "lora", tmp_path)
    shown = TASK.replace("label: label}", "label: label, extra: [new]}").replace(
        " Is", " {{ new }} Is"
    )
    file = _task(tmp_path, shown)
    rows = [
        {"text": text, "label": label, "new": bool(number % 2)}
        for number, (text, label) in enumerate(ROWS)
    ]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "rows/train.jsonl").write_text(lines, encoding="utf-8")
    assert peml(capsys, "add-task", run, file, "--shots", 2).code == 0
    cells = [f"{row['text']},{str(row['new']).lower()}\n" for row in rows]
    (tmp_path / "rows.csv").write_text("text,new\n" + "".join(cells))
    answers = []
    for name in ("rows/train.jsonl", "rows.csv"):
        out = tmp_path / "out.jsonl"
        ways = ("--task", "colour", "--input", tmp_path / name, "--output", out)
        assert peml(capsys, "predict", run, *ways).code == 0
        answers.append(out.read_text())
    assert answers[0] == answers[1]  # "True" in the prompt, as in the rows that are shown


def test_labels_counted_from_1_are_not_shown_one_off(tmp_path: Path, capsys: Capture) -> None:
    run = run_of("llama", "lora", tmp_path)
    file = _task(tmp_path, TASK.replace('["no", "yes"]', '["no", "yes", "maybe"]'))
    lines = "".join(f'{{"text": "ball {n}", "label": {1 + n % 2}}}\n' for n in range(40))
    (tmp_path / "rows/train.jsonl").write_text(lines, encoding="utf-8")
    said = peml(capsys, "add-task", run, file, "--shots", 2, "--choose", "first")
    assert (said.code, "as if they were counted from 1" in said.error) == (2, True), said


def test_rows_can_be_chosen_by_hand(tmp_path: Path, capsys: Capture) -> None:
    run, file = run_of("llama", "lora+context", tmp_path), tmp_path / "rows.csv"
    file.write_text("task,row\ncolour,3\ncolour,1\n")
    words = ("add-task", run, _task(tmp_path), "--shots", 2, "--choose")
    said = peml(capsys, *words, "balancd")
    assert said.code == 2
    assert "Did you mean 'balanced'" in said.error
    assert peml(capsys, *words, file).code == 0
    shots = load(run).base.tasks[-1].shots
    assert shots.rows == (3, 1)
    assert shots.examples == ("a red box Is it red? yes", "the green box Is it red? no")


def test_contexts_of_another_model_are_refused(tmp_path: Path, capsys: Capture) -> None:
    """Its contexts are those of this folder: the model is sealed as a whole."""
    run = run_of("llama", "lora+context", tmp_path, context={"of": "adapted"})
    (tmp_path / "other").mkdir()
    other = run_of("llama", "lora+context", tmp_path / "other", context={"of": "frozen"})
    file = "model/contexts.safetensors"
    (run / file).write_bytes((other / file).read_bytes())
    rows = tmp_path / "new.jsonl"
    rows.write_text('{"text": "a lazy dog"}\n', encoding="utf-8")
    words = ("predict", run, "--task", "mood", "--input", rows, "--output", tmp_path / "out")
    for said in (
        peml(capsys, *words),
        peml(capsys, "add-task", run, _task(tmp_path), "--shots", 3),
    ):
        assert said.code == 2
        assert "contexts.safetensors" in said.error
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def _scores(model: TaskModel, row: tuple[int, dict[str, object]]) -> torch.Tensor:
    scores: torch.Tensor = model.eval()(batch_of(model, [row], "score")).scores
    return scores


def test_another_base_model_is_refused(tmp_path: Path, capsys: Capture) -> None:
    run = run_of("llama", "lora+context", tmp_path, context={"of": "frozen"})
    save_tiny_model("llama", tmp_path / "llama", seed=7)
    files = checksums(run)
    said = peml(capsys, "add-task", run, _task(tmp_path), "--shots", 3)
    assert said.code == 2
    assert "gives another context of 'mood'" in said.error
    assert checksums(run) == files


@pytest.mark.parametrize(
    ("base", "method", "text", "shots", "said"),
    [
        ("llama", "lora+context", TASK.replace("colour", "mood"), 2, "the model has a task 'mood'"),
        ("llama", "lora+context", TASK, 5, "5 shots are asked for, and 'train' has 4 rows"),
        ("llama", "lora+context", TASK, 5, "Lower --shots, or name another split"),
        ("llama", "lora+prefix", TASK, 2, "it has prefix.safetensors"),
        ("llama", "mtl-lora", TASK, 2, "it has adapter.safetensors"),
        ("bert", "lora+context", TASK, 2, "it has heads.safetensors"),
        ("llama", "lora+context", TASK + "chat: true\n", 2, "asked through the chat template"),
        (
            "llama",
            "lora+context",
            TASK.replace("Is it red", "the dog " * 400),
            2,
            "don't fit into the model's",
        ),
    ],
)
def test_what_cannot_be_added_is_refused(
    tmp_path: Path, capsys: Capture, base: str, method: str, text: str, shots: int, said: str
) -> None:
    run = run_of(base, method, tmp_path)
    files = checksums(run)
    answer = peml(capsys, "add-task", run, _task(tmp_path, text), "--shots", shots)
    assert answer.code == 2, answer
    assert said in answer.error
    assert "context.shots" not in answer.error  # the option is --shots
    assert checksums(run) == files
