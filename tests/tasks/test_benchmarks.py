"""The bundled benchmarks: every task loads from rows in the hub's layout and renders them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict

from peml.data.inspection import check_rows
from peml.data.settings import TasksSettings, select_tasks
from peml.data.sources import load_source, load_task_data
from peml.tasks import Example, Suite, TaskRenderer
from tests.data.rows import write_jsonl
from tests.tasks.benchmark_rows import ROWS, bundled

TASKS = [(suite, task) for suite, tasks in ROWS.items() for task in tasks]

# two subjects stand for the 57, which differ in their names alone
LOADED = [task for task in TASKS if task[0] != "mmlu" or task[1] in ("anatomy", "sociology")]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


def rendered(suite: str, task: str) -> list[Example]:
    renderer = TaskRenderer(bundled(suite).task(task))
    return [renderer.render(row, index) for index, row in enumerate(ROWS[suite][task])]


@pytest.mark.parametrize("name", ROWS)
def test_there_are_rows_for_every_task(name: str) -> None:
    suite: Suite = bundled(name)
    assert list(ROWS[name]) == [task.name for task in suite.tasks]
    assert all(task.source.hub and task.description for task in suite.tasks)


@pytest.mark.parametrize(("suite", "name"), LOADED)
def test_hub_and_folder_give_the_same_examples(
    suite: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, rows = bundled(suite).task(name), ROWS[suite][name]
    splits = [split for split in (task.splits.train, task.splits.reported[0]) if split]
    asked: list[tuple[Any, ...]] = []

    def load(*where: Any, **options: Any) -> DatasetDict:
        asked.append((*where, options))
        return DatasetDict({split: Dataset.from_list(rows) for split in splits})

    monkeypatch.setattr(datasets, "load_dataset", load)
    for split in splits:
        write_jsonl(tmp_path / name / f"{split}.jsonl", rows)
    hub, local = load_source(task), load_source(task, str(tmp_path))
    source = task.source
    assert asked == [(source.hub, source.subset, {"revision": source.revision})]
    renderer = TaskRenderer(task)
    wanted = rendered(suite, name)
    assert len(hub[0]) == len(local[0]) == (len(rows) if task.splits.train else 0)
    for found in (*hub[:2], *local[:2]):
        if not len(found):
            continue
        assert [renderer.render(row, index) for index, row in enumerate(found)] == wanted
        assert check_rows(task, found).labels == [example.label for example in wanted]


@pytest.mark.parametrize(("suite", "name"), TASKS)
def test_gold_by_itself_is_that_of_the_rendered_row(suite: str, name: str) -> None:
    renderer = TaskRenderer(bundled(suite).task(name))
    alone = [renderer.gold(row, index) for index, row in enumerate(ROWS[suite][name])]
    whole = [example.gold for example in rendered(suite, name)]
    assert alone == whole
    assert [*map(type, alone)] == [*map(type, whole)]


@pytest.mark.parametrize(("suite", "name"), TASKS)
def test_every_template_renders(suite: str, name: str) -> None:
    for example in rendered(suite, name):
        for text in (example.prompt, *example.segments):
            assert text.strip()
            assert "{{" not in text
            assert "{%" not in text


def test_the_order_of_labels_is_each_tasks_own() -> None:
    suite = bundled("superglue")
    assert suite.task("cb").labels == ("entailment", "contradiction", "neutral")
    assert suite.task("rte").labels == ("entailment", "not_entailment")
    for name in ("boolq", "multirc", "wic", "wsc"):
        assert suite.task(name).labels == ("False", "True")
    words = [example.options[int(example.label)] for example in rendered("superglue", "cb")]
    assert words == ["True", "False", "Neither"]


def test_a_space_behind_mnlis_hypothesis_is_not_doubled() -> None:
    row = {"premise": "It rains.", "hypothesis": "It is wet. ", "label": 0}
    example = TaskRenderer(bundled("glue").task("mnli")).render(row, 0)
    assert example.prompt.splitlines()[1] == "Question: It is wet. True, False or Neither?"


def test_copa_joins_by_the_question() -> None:
    effect, cause = rendered("superglue", "copa")
    assert (effect.prompt, effect.options) == (
        "The glass fell so",
        ("it broke.", "the wind rose."),
    )
    assert effect.label == 0
    assert cause.prompt == "The glass fell because"
    assert cause.options[int(cause.label)] == "the cat jumped up."


def test_record_takes_the_first_of_several_answers_and_keeps_all() -> None:
    example = rendered("superglue", "record")[0]
    assert example.options == ("Lund", "Mira Olsen", "Olsen")
    assert example.label == 1
    assert example.gold == ("Mira Olsen", "Olsen")
    assert "of Lund.\n- Olsen lives" in example.prompt


def test_wsc_marks_noun_and_pronoun_in_either_order_and_inside_punctuation() -> None:
    first, second = rendered("superglue", "wsc")
    assert first.prompt.startswith("When #he# came in, *the tall man* greeted Otto.\n")
    assert second.prompt.startswith("Otto thanked the tall man, since #he# had helped *Rolf*.\n")
    assert first.segments == (first.prompt,)
    assert 'the pronoun "he" refer to "the tall man"?' in first.prompt


def test_winogrande_fills_the_gap_with_each_option() -> None:
    example = rendered("commonsense", "winogrande")[0]
    assert example.prompt == "The cup hid the key, as the"
    assert example.options == ("cup was small.", "key was small.")
    assert example.label == 1


def test_hellaswag_is_free_of_marks() -> None:
    example = rendered("commonsense", "hellaswag")[0]
    assert example.prompt == "Baking: Bread. Stir. A man stirs. he"
    assert example.options == ("sings.", "kneads. Wait.", "flies.", "melts.")


def test_keys_are_letters_or_numbers_as_each_row_has_them() -> None:
    for name in ("arc-easy", "arc-challenge"):
        assert [example.label for example in rendered("commonsense", name)] == [0, 1]


INSTRUCTION = "Please answer with true or false, question: {}?\n\nAnswer format: true/false"


@pytest.mark.parametrize("suite", ["commonsense", "commonsense-instruct"])
def test_a_copy_in_instructions_gives_the_same_question(suite: str, tmp_path: Path) -> None:
    task = bundled(suite).task("boolq")
    rows = [
        {
            "instruction": INSTRUCTION.format(row["question"]),
            "input": "",
            "output": "the correct answer is so",
            "answer": str(row["answer"]).lower(),
        }
        for row in ROWS["commonsense"]["boolq"]
    ]
    for split in ("train", "validation"):
        write_jsonl(tmp_path / "boolq" / f"{split}.jsonl", rows)
    renderer = TaskRenderer(task)
    found = [renderer.render(row, n) for n, row in enumerate(load_source(task, str(tmp_path))[0])]
    wanted = rendered(suite, "boolq")
    assert [(e.prompt, e.label) for e in found] == [(e.prompt, e.label) for e in wanted]
    if suite == "commonsense":
        assert found == wanted


@pytest.mark.parametrize(
    ("name", "folder"),
    [("siqa", "social_i_qa"), ("arc-easy", "arc_easy"), ("arc-challenge", "arc_challenge")],
)
def test_folders_named_as_on_the_hub_are_found(name: str, folder: str, tmp_path: Path) -> None:
    task = bundled("commonsense").task(name)
    for split in ("train", *task.splits.reported):
        write_jsonl(tmp_path / folder / f"{split}.jsonl", ROWS["commonsense"][name])
    assert load_source(task, str(tmp_path))[2].name == str(tmp_path / folder)


@pytest.mark.parametrize("name", ["addsub", "multiarith", "singleeq", "mawps"])
def test_arithmetic_is_read_from_copies_in_instructions(name: str, tmp_path: Path) -> None:
    task = bundled("generation").task(name)
    question = "question" if name == "mawps" else "instruction"
    rows = [{question: example.segments[0], "input": "", "answer": example.label}
            for example in rendered("generation", name)]  # fmt: skip
    for split in ("train", "test"):
        write_jsonl(tmp_path / name / f"{split}.jsonl", rows)
    train, reported, _ = load_source(task, str(tmp_path))
    assert len(train) == (2 if name == "mawps" else 0)
    renderer = TaskRenderer(task)
    found = [renderer.render(row, index) for index, row in enumerate(reported)]
    assert found == rendered("generation", name)


def test_targets_are_solutions_numbers_and_summaries() -> None:
    assert str(rendered("generation", "gsm8k")[0].label).endswith("\n#### 8")
    assert [example.label for example in rendered("generation", "mawps")] == ["3.5", "4"]
    assert rendered("generation", "multiarith")[0].prompt == "Question: 2 by 3?\nAnswer:"


def test_mmlu_has_its_57_subjects_in_four_groups() -> None:
    tasks = bundled("mmlu").tasks
    counts = Counter(task.group for task in tasks)
    assert counts == {"stem": 18, "humanities": 13, "social-sciences": 12, "other": 14}
    assert len({task.name for task in tasks}) == 57
    assert all(task.source.subset == task.name for task in tasks)
    groups = {task.name: task.group for task in tasks}
    assert groups["machine_learning"] == "stem"
    assert groups["professional_law"] == "humanities"
    assert groups["econometrics"] == "social-sciences"
    assert groups["anatomy"] == "other"


def test_mmlu_lists_the_options_and_scores_their_letters() -> None:
    example = rendered("mmlu", "high_school_physics")[1]
    assert example.prompt == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "What is 3?\nA. a line\nB. a point\nC. a plane\nD. none\nAnswer:"
    )
    assert example.options == ("A", "B", "C", "D")
    assert example.label == 3
    assert example.segments == (example.prompt.split("\n\n")[1],)


def test_mmlu_five_shot_shows_the_five_rows_of_dev(tmp_path: Path) -> None:
    rows = ROWS["mmlu"]["anatomy"]
    dev = [rows[0] | {"question": f" Dev {n}? ", "answer": n % 4} for n in range(5)]
    write_jsonl(tmp_path / "anatomy" / "dev.jsonl", dev)
    write_jsonl(tmp_path / "anatomy" / "test.jsonl", rows)
    settings = TasksSettings(suite="mmlu", shots=5, include=("anatomy",), source=str(tmp_path))
    data = load_task_data(select_tasks(settings)[0], settings, 0)
    assert (len(data.train), len(data.development), len(data.reported)) == (0, 0, 2)
    head, *shots, own = TaskRenderer(data.task).render(data.reported[0], 0).prompt.split("\n\n")
    assert head.endswith("(with answers) about anatomy.")
    options = "A. a line\nB. a point\nC. a plane\nD. none\nAnswer:"
    assert shots == [f"Dev {n}?\n{options} {'ABCDA'[n]}" for n in range(5)]
    assert own == f"What is 0?\n{options}"


def test_instructions_are_worded_as_in_llm_adapters() -> None:
    boolq, denied = rendered("commonsense-instruct", "boolq")
    assert boolq.prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request. \n\n"
        f"{'':16}### Instruction:\n"
        f"{'':16}Please answer the following question with true or false, question: is chalk soft?"
        "\n\nAnswer format: true/false\n\n"
        f"{'':16}### Response:\n{'':16}"
    )
    assert (boolq.label, denied.label) == (
        "the correct answer is true",
        "the correct answer is false",
    )
    piqa = rendered("commonsense-instruct", "piqa")[1]
    assert "\n\nSolution1: Hang it up.\n\nSolution2: Drown it.\n\nAnswer format:" in piqa.prompt
    arc = rendered("commonsense-instruct", "arc-easy")[1]
    assert "through?\n\nAnswer1: wool Answer2: glass Answer3: clay\n\n" in arc.prompt
    assert "Answer format: answer1/answer2/answer3\n" in arc.prompt
    labels = {
        "piqa": ["solution1", "solution2"],
        "siqa": ["answer3", "answer1"],
        "hellaswag": ["ending2", "ending4"],
        "winogrande": ["option2", "option1"],
        "arc-challenge": ["answer1", "answer2"],
        "openbookqa": ["answer1", "answer3"],
    }
    for name, answers in labels.items():
        found = [example.label for example in rendered("commonsense-instruct", name)]
        assert found == [f"the correct answer is {answer}" for answer in answers]
