"""CSV doesn't tell numbers from texts, so templates that ask for a value need its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peml.data.sources import load_source
from peml.errors import DataError
from peml.tasks import Task, TaskRenderer
from peml.tasks.task import Source
from tests.data.loaded import loaded_examples
from tests.tasks import examples

FLAG = "{{ sentence }}{% if flag %} (flagged){% endif %}"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEML_CACHE", str(tmp_path / "cache"))


def _task(folder: Path, cells: list[str], template: str, **kinds: str) -> Task:
    lines = ["sentence,flag,label", *(f"row {n},{cell},1" for n, cell in enumerate(cells))]
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    columns = {"inputs": ["sentence"], "extra": ["flag"], "label": "label", "kinds": kinds}
    source = Source(path=str(folder))
    return examples.sentiment(columns=columns, template=template, source=source)


def _prompts(task: Task) -> list[str]:
    rows, _, _ = load_source(task)
    renderer = TaskRenderer(task)
    return [renderer.render(row, number).prompt for number, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("cells", "template", "message"),
    [
        (["1", "0"], FLAG, "line 3, field 'flag': .* tests .*'0' .*{flag: number}"),
        (["True", "False"], FLAG, "'False' .*{flag: boolean}, or {flag: text}"),
        (["", "0.0"], "{{ sentence }} {{ 'no' if not flag else 'yes' }}", "'0.0'"),
        (["7", "0"], "{{ sentence if sentence and flag else '' }}", "'0'"),
        (["7", "8"], "{{ sentence }}{{ '!' if flag == 7 }}", "line 2, .* compares .*'7'"),
        (["7", "8"], "{{ sentence }}{{ '!' if flag in [7, 9] }}", "compares"),
        (["True", "True"], "{{ sentence }}{{ '!' if flag is true }}", "compares"),
        (["True", "False"], "{{ sentence }} {{ flag|default('no', true) }}", "'False' .*boolean"),
        (["10", "9"], "{{ sentence }}{{ flag if flag > flag }}", "compares .*'10'"),
        (["10", "9"], "{{ sentence }} {{ flag * 2 }}", "adds up .*'10'"),  # 1010
        (["10", "9"], "{{ sentence }} {{ flag + flag }}", "adds up"),
        (["10", "9"], "{{ sentence }} {{ (flag, flag)|min }}", "compares .*'10'"),
        (['"[""a"", ""b""]"'] * 2, "{{ sentence }} {{ flag|first }}", "goes through the items"),
        (['"[""a"", ""b""]"'] * 2, "{{ sentence }} {{ flag|sort|join }}", "goes through the items"),
    ],
)
def test_cells_that_a_template_takes_as_values_need_a_kind(
    tmp_path: Path, cells: list[str], template: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_source(_task(tmp_path, cells, template))


@pytest.mark.parametrize(
    ("cells", "kinds", "said"),
    [
        (["1", "0"], {"flag": "number"}, ["row 0 (flagged)", "row 1"]),
        (["1", "0"], {"flag": "text"}, ["row 0 (flagged)", "row 1 (flagged)"]),
        (["True", "False"], {"flag": "boolean"}, ["row 0 (flagged)", "row 1"]),
        (["34", ""], {}, ["row 0 (flagged)", "row 1"]),  # as in JSONL, whatever the kind
        (["0", "late"], {}, ["row 0 (flagged)", "row 1 (flagged)"]),  # texts
    ],
)
def test_with_a_kind_or_other_cells_templates_test_them(
    tmp_path: Path, cells: list[str], kinds: dict[str, str], said: list[str]
) -> None:
    assert _prompts(_task(tmp_path, cells, FLAG, **kinds)) == said


@pytest.mark.parametrize(
    "template",
    [
        "{{ sentence }} {{ flag }}",
        "{{ sentence }}{{ flag == '0' }}",
        "{{ flag|int > 2 }}",
        "{{ sentence }}{% if flag is not none %}{{ flag }}{% endif %}",
        "{{ sentence }}{{ flag + ' km' }}{{ '-' * 3 }}",
        "{{ sentence }}{{ flag|default('?') }}{{ flag < 'b' }}",
    ],
)
def test_templates_that_take_texts_need_no_kind(tmp_path: Path, template: str) -> None:
    assert len(_prompts(_task(tmp_path, ["0", "1"], template))) == 2


def _answers(folder: Path, rows: str, target: str | None) -> dict[str, Any]:
    """A generation task with the answers in the column `gold`; its columns are left out."""
    for split in ("train", "validation"):
        (folder / f"{split}.csv").write_text(f"text,gold\n{rows}")
    return {
        "name": "answers",
        "type": "generation",
        "source": {"path": str(folder)},
        "template": "{{ text }}",
        "target": target,
        "metrics": ["exact_match"],
    }


def test_a_target_of_the_label_needs_its_kind(tmp_path: Path) -> None:
    given = _answers(tmp_path, "a,1\nb,0\n", "{{ 'yes' if label else 'no' }}")
    columns = {"inputs": ["text"], "label": "gold"}
    with pytest.raises(DataError, match=r"'0' .*\{gold: number\}"):
        load_source(Task.model_validate({**given, "columns": columns}))
    task = Task.model_validate({**given, "columns": {**columns, "kinds": {"gold": "number"}}})
    rows, _, _ = load_source(task)
    assert [TaskRenderer(task).gold(row, 0) for row in rows] == ["yes", "no"]


def test_a_file_is_inspected_again_for_another_template(tmp_path: Path) -> None:
    cells = ["1", "0"] * 4000  # more than is held in memory, so the rows are in the cache
    load_source(_task(tmp_path, cells, "{{ sentence }} {{ flag }}"))
    with pytest.raises(DataError, match="tests"):
        load_source(_task(tmp_path, cells, FLAG))


@pytest.mark.parametrize("loop", ["{% for f in flag %}{{ f }},{% endfor %}", "{{ flag|join }}"])
def test_a_text_has_no_items(tmp_path: Path, loop: str) -> None:
    task = _task(tmp_path, ["['a']", ""], f"{{{{ sentence }}}} {loop}")
    with pytest.raises(DataError, match=r"line 2, field 'flag': .* items of .* letters"):
        load_source(task)
    assert (
        len(_prompts(_task(tmp_path, ["ab", ""], f"{{{{ sentence }}}} {loop}", flag="text"))) == 2
    )


@pytest.mark.parametrize("target", [None, "{{ label }}!"])
def test_an_empty_answer_has_to_be_meant(tmp_path: Path, target: str | None) -> None:
    given = _answers(tmp_path, "a,b\nc,\n", target)
    columns = {"inputs": ["text"], "label": "gold"}
    with pytest.raises(DataError, match=r"line 3, field 'gold': the cell is empty.*\{gold: text\}"):
        load_source(Task.model_validate({**given, "columns": columns}))
    task = Task.model_validate({**given, "columns": {**columns, "kinds": {"gold": "text"}}})
    rows, _, _ = load_source(task)
    assert [TaskRenderer(task).gold(row, 0) for row in rows] == (
        ["b", ""] if target is None else ["b!", "!"]
    )


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize(
    "labels", [["new", "same"], ["1", "2"], ["1", "0"], ["yes", "no"], ["true", "false"]]
)
@pytest.mark.parametrize("values", ["01", ["False", "True"], ["false", "true"]])
def test_labels_that_are_indices_are_read_as_such(
    tmp_path: Path, suffix: str, labels: list[str], values: list[str]
) -> None:
    if suffix == "csv":
        text = "".join(["sentence,label\n", *(f"a {n},{v}\n" for n, v in enumerate(values))])
    else:
        spelled = [value.lower() for value in values]
        text = "".join(f'{{"sentence": "a {n}", "label": {v}}}\n' for n, v in enumerate(spelled))
    for split in ("train", "validation"):
        (tmp_path / f"{split}.{suffix}").write_text(text)
    columns = {"inputs": ["sentence"], "label": "label", "kinds": {"label": "number"}}
    source = Source(path=str(tmp_path))
    task = examples.sentiment(columns=columns, labels=labels, source=source)
    found = loaded_examples(task, None)
    assert [[example.label for example in split] for split in found] == [[0, 1]] * 2
