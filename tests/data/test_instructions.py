"""Instruction data in its usual forms becomes tasks without a template."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from peml.data.files import needed_rows, read_files
from peml.data.rows import Rows
from peml.data.settings import TasksSettings, select_tasks
from peml.data.task_columns import read_list
from peml.data.unlabelled import UnlabelledFile
from peml.errors import ConfigError, DataError
from peml.tasks import Task, TaskRenderer
from peml.tasks.instructions import split_row
from tests.data.rows import write_jsonl

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "No."},
]
SHARED = [
    {"from": {"user": "human", "assistant": "gpt"}.get(m["role"], m["role"]), "value": m["content"]}
    for m in MESSAGES
]
FORMS = {"messages": {"messages": MESSAGES}, "sharegpt": {"conversations": SHARED}}
TURNS = [(m["role"], m["content"]) for m in MESSAGES[:-1]]


def task(form: str = "messages", **fields: Any) -> Task:
    definition = {"name": "talk", "format": form, "source": {"path": "data"}, **fields}
    return Task.model_validate(definition)


def _part(**fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": "Hi", "image_url": None, **fields}


def test_texts_in_parts_are_joined() -> None:
    parts = [_part(text="H"), _part(text="i")]
    messages = [turn | {"content": parts} if turn["content"] == "Hi" else turn for turn in MESSAGES]
    (row,) = read_list([{"messages": messages}], task())
    assert turns(task(), row, labelled=False) == TURNS


@pytest.mark.parametrize("form", FORMS)
def test_a_conversation_may_be_spelled_as_json(form: str, tmp_path: Path) -> None:
    made = task(form)
    ((column, talk),) = FORMS[form].items()
    with (tmp_path / "train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [column, "answer"])
        writer.writeheader()
        writer.writerow({column: json.dumps(talk), "answer": "ignored"})
    (row,) = read_files([tmp_path / "train.csv"], made)
    assert turns(made, row) == TURNS
    assert TaskRenderer(made).gold(row, 0) == "No."
    for text in ("Hi there", "[['user', 'Hi']]", '[["user", "Hi"]]', "5"):
        with pytest.raises(DataError, match=r"is not (a list of turns|an object)"):
            read_list([{column: text, "answer": "No."}], made)


@pytest.mark.parametrize(
    "flag",
    [{"weight": 0.5}, {"weight": "0"}, {"weight": -1}, {"train": False}, {"loss": 0}],
)
def test_a_weight_that_would_be_ignored_is_refused(flag: dict[str, Any]) -> None:
    talk = [turn | (flag if turn["content"] == "Hello." else {}) for turn in MESSAGES]
    with pytest.raises(DataError, match=rf"turn 2 \(from 0\): {next(iter(flag))} is .*0"):
        read_list([{"messages": talk}], task())


def turns(task: Task, row: dict[str, Any], *, labelled: bool = True) -> list[tuple[str, str]]:
    example = TaskRenderer(task).render(row, 0, labelled=labelled)
    return [(turn.role, turn.content) for turn in example.turns]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "hub"])
def test_the_last_answer_of_a_conversation_is_learnt(form: str, kind: str, tmp_path: Path) -> None:
    made, row = task(form), FORMS[form]
    path = tmp_path / f"train.{kind}"
    table = pa.Table.from_pylist([row, row])
    if kind == "hub":
        rows = needed_rows(Rows.of_table(table), made, "a split")
    elif kind == "parquet":
        pq.write_table(table, path)
        rows = read_files([path], made)
    else:
        write_jsonl(path, [row, row])
        rows = read_files([path], made)
    assert len(rows) == 2
    example = TaskRenderer(made).render(rows[1], 1)
    assert turns(made, rows[1]) == TURNS
    assert example.label == "No."
    assert made.type.generates
    assert made.chat is not None
    assert Task.model_validate_json(made.model_dump_json()) == made  # as an export keeps it


def test_white_space_around_an_answer_is_no_part_of_it() -> None:
    """The last answer's is left out by the chat's template, so an earlier one's is too."""
    row = split_row(
        "messages", {"messages": [turn | {"content": f" {turn['content']}\n"} for turn in MESSAGES]}
    )
    assert row["answer"] == "No."
    contents = [turn.content for turn in TaskRenderer(task()).render(row, 0).turns]
    assert contents == [" Be brief.\n", " Hi\n", "Hello.", " And?\n"]


def test_system_texts_of_the_task_come_before_the_conversation_s() -> None:
    made = task(chat={"system": "Be kind."}, header="Talk.")
    (row,) = read_list([FORMS["messages"]], made)
    assert turns(made, row, labelled=False)[0] == ("system", "Be kind.\n\nTalk.\n\nBe brief.")
    (bare,) = read_list([{"messages": MESSAGES[1:4]}], made)
    assert turns(made, bare, labelled=False)[0] == ("system", "Be kind.\n\nTalk.")


def test_what_is_learnt_of_a_conversation_is_said_for_conversations_alone() -> None:
    with pytest.raises(ValidationError, match="train_on: last is for conversations"):
        task("alpaca", train_on="last")


def test_conversations_to_predict_end_with_the_user(tmp_path: Path) -> None:
    made = task()
    for messages in (MESSAGES, MESSAGES[:-1]):  # an answer that is there is left out
        (row,) = read_list([{"messages": messages}], made)
        assert turns(made, row, labelled=False) == TURNS
        write_jsonl(tmp_path / "rows.jsonl", [{"messages": messages}])
        (window,) = UnlabelledFile(tmp_path / "rows.jsonl", made).windows(9)
        assert window.rows == [row]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (MESSAGES[:-1], "doesn't end with an answer of the assistant"),
        ([], "doesn't end with an answer of the assistant"),
        (MESSAGES[-1:], "no turn of the user in front of the last answer"),
        ([*MESSAGES, MESSAGES[-1]], "no turn of the user in front"),
        ([MESSAGES[1], *MESSAGES], r"turn 1 \(from 0\) is the system's"),
        (
            [{"role": "tool", "content": "3"}, *MESSAGES],
            "role is 'tool', not system or user or assistant",
        ),
        ([{"role": "user", "content": None}, MESSAGES[-1]], "content is None, not a text"),
        ([{"role": "user", "content": " "}, MESSAGES[-1]], "content is ' ', not a text"),
        ([{"role": "user", "content": []}, MESSAGES[-1]], r"content is \[\], not a text"),
        ([{"role": "user", "content": [_part(type="image")]}, MESSAGES[-1]], "not a text"),
        ([{"role": "user", "content": [_part(image_url="a")]}, MESSAGES[-1]], "not a text"),
        ([{"role": "user", "content": [_part(text=3)]}, MESSAGES[-1]], "not a text"),
        ([*MESSAGES[:-1], MESSAGES[-1] | {"tool_calls": [1]}], "tool_calls, and only its content"),
        (
            [*MESSAGES[:-1], MESSAGES[-1] | {"thinking": "Hm."}],
            "has thinking, and only its content",
        ),
        ([*MESSAGES[:-1], MESSAGES[-1] | {"weight": 0}], "weight of the last answer is 0"),
        (["Hi"], "'Hi' is not an object with role"),
        (3, "3 is not a list of turns"),
        ([{"role": [], "content": "Hi"}], r"role is \[\]"),
        ([{"from": "human", "value": "Hi"}], "role is None"),
    ],
)
def test_malformed_conversations_are_named(messages: Any, message: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [FORMS["messages"], {"messages": messages}])
    with pytest.raises(DataError, match=rf"train\.jsonl, line 2.*{message}") as caught:
        read_files([tmp_path / "train.jsonl"], task())
    assert caught.value.action


def test_alpaca_s_columns_are_a_prompt(tmp_path: Path) -> None:
    made = task("alpaca", columns={"aliases": {"output": "response"}})
    rows = [
        {"instruction": "Add.", "input": "1 2", "response": "3"},
        {"instruction": "Greet.", "input": "", "response": "Hi."},
    ]
    write_jsonl(tmp_path / "train.jsonl", rows)
    read = read_files([tmp_path / "train.jsonl"], made)
    assert [turns(made, row) for row in read] == [
        [("user", "Add.\n\n1 2")],
        [("user", "Greet.")],
    ]
    plain = task("alpaca", chat=False, metrics=["exact_match"])
    example = TaskRenderer(plain).render(rows[0] | {"output": "3"}, 0)
    assert (example.turns, example.prompt, example.label) == ((), "Add.\n\n1 2", "3")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_alpaca_s_input_may_be_missing_in_all_rows(kind: str, tmp_path: Path) -> None:
    made, row = task("alpaca"), {"instruction": "Greet.", "output": "Hi."}
    path = tmp_path / f"train.{kind}"
    write_jsonl(tmp_path / "train.jsonl", [row])
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train.parquet")
    assert [turns(made, each) for each in read_files([path], made)] == [[("user", "Greet.")]]
    (asked,) = read_list([{"instruction": "Greet."}], made)
    assert turns(made, asked, labelled=False) == [("user", "Greet.")]


@pytest.mark.parametrize("form", ["messages", "sharegpt", "alpaca"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "hub"])
def test_a_column_that_belongs_to_the_prompt_is_shown_or_refused(
    form: str, kind: str, tmp_path: Path
) -> None:
    row = FORMS.get(form, {"instruction": "Add.", "input": "", "output": "3"})
    path = tmp_path / f"train.{kind}"

    def read(task: Task, **more: Any) -> Rows:
        rows = [
            {"tools": "[]", "system": None, **row},
            {"tools": "[]", "system": "", **row, **more},
        ]
        table = pa.Table.from_pylist(rows)
        if kind == "hub":
            return needed_rows(Rows.of_table(table), task, "a split")
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            write_jsonl(path, rows)
        return read_files([path], task)

    assert len(read(task(form))) == 2
    for more in ({"system": "Be kind."}, {"tools": '[{"name": "add"}]'}):
        with pytest.raises(DataError, match=r"(line 2|row 1).* would be left out of the prompt"):
            read(task(form), **more)
    extra = ["input", "system"] if form == "alpaca" else ["system"]
    shown = task(form, columns={"extra": extra}, header="{{ system }}")
    rows = read(shown, system="Be kind.")
    assert turns(shown, rows[1])[0][1].startswith("Be kind.")


def test_conversations_keep_their_turns(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="chat: needed for format messages"):
        task(chat=False)
    with pytest.raises(ValidationError, match="shots: rows of format sharegpt have earlier turns"):
        task("sharegpt", shots={"count": 1})
    file = tmp_path / "talk.yaml"
    file.write_text("name: talk\nformat: messages\nsource: {path: data}\n")
    for setting in ({"shots": 2}, {"chat": False}):
        with pytest.raises(ConfigError, match="talk, whose rows are conversations"):
            select_tasks(TasksSettings.model_validate({"files": [str(file)], **setting}))
