from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peml.errors import DataError, TaskError
from peml.tasks import SOURCE_ROW, Task, TaskRenderer
from tests.tasks import examples


def test_renders_every_part_of_a_classification_row() -> None:
    task = examples.sentiment(label_words=["awful", "great"])
    example = TaskRenderer(task).render({"sentence": "Fine.", "label": 1, "idx": 9}, 4)
    assert example.index == 4
    assert example.prompt == "Fine. It is"
    assert example.segments == ("Fine.",)
    assert example.options == ("awful", "great")
    assert example.label == 1


def test_segments_are_the_input_columns_unless_templates_are_given() -> None:
    row = {"first": "A", "second": "B", "label": 0}
    assert TaskRenderer(examples.pair()).render(row, 0).segments == ("A", "B")
    joined = examples.pair(segments=["{{ second }}, {{ first }}"])
    assert TaskRenderer(joined).render(row, 0).segments == ("B, A",)


def test_text_passes_untouched() -> None:
    text = "  <b>Tom & Jerry</b>\n\t{{ 7 * 7 }} {% raw %} \n"
    example = TaskRenderer(examples.sentiment(template="{{ sentence }}\n")).render(
        {"sentence": text, "label": 0}, 0
    )
    assert example.segments == (text,)
    assert example.prompt == text + "\n"


@pytest.mark.parametrize(
    ("scale", "options"),
    [
        ((0, 1, 0.25), ("0", "0.25", "0.5", "0.75", "1")),
        ((-1, 1, 1), ("-1", "0", "1")),
        ((0, 20, 10), ("0", "10", "20")),
    ],
)
def test_scores_are_spelled_low_to_high(scale: tuple[float, ...], options: tuple[str]) -> None:
    low, high, step = scale
    task = examples.score(scale={"low": low, "high": high, "step": step})
    row = {"first": "A", "second": "B", "score": high}
    example = TaskRenderer(task).render(row, 0)
    assert example.options == options
    assert example.label == high
    assert isinstance(example.label, float)


def test_choices_come_from_a_list_or_from_columns() -> None:
    listed = TaskRenderer(examples.choice())
    example = listed.render({"start": "Go", "options": ["left", "right"], "answer": 1}, 0)
    assert example.options == ("left", "right")
    assert example.prompt == "Go [left|right]"
    columns = TaskRenderer(examples.choice(["a", "b"]))
    example = columns.render({"start": "Go", "a": "left", "b": "right", "answer": "right"}, 0)
    assert (example.options, example.label) == (("left", "right"), 1)


@pytest.mark.parametrize(("keys", "answer"), [("options.key", "B"), (("1", "2"), "2")])
def test_labels_may_call_the_options_by_keys(keys: Any, answer: str) -> None:
    columns = {"inputs": ["start"], "choices": "options.text", "keys": keys, "label": "answer"}
    renderer = TaskRenderer(examples.choice(columns=columns))
    options = {"text": ["left", "right"], "key": ["A", "B"]}
    nested = {"start": "Go", "options": options, "answer": answer}
    flat = {"start": "Go", "options.text": ["left", "right"], "options.key": ["A", "B"]}
    for row in (nested, {**flat, "answer": answer}):
        assert renderer.render(row, 0).label == 1
    for wrong in ("right", 3, "C"):
        with pytest.raises(DataError, match=r"'answer'.*not the key"):
            renderer.render(nested | {"answer": wrong}, 0)


def test_a_key_is_needed_for_every_option() -> None:
    columns = {"inputs": ["start"], "choices": "options", "keys": ["1", "2"], "label": "answer"}
    row = {"start": "Go", "options": ["a", "b", "c"], "answer": "1"}
    with pytest.raises(DataError, match="2 keys for 3 options"):
        TaskRenderer(examples.choice(columns=columns)).render(row, 0)


def test_options_may_have_a_template() -> None:
    task = examples.choice(option="{{ 'ABC'[index] }} {{ option | upper }}{{ start }}")
    example = TaskRenderer(task).render({"start": "!", "options": ["x", "y"], "answer": "y"}, 0)
    assert example.options == ("A X!", "B Y!")
    assert example.label == 1
    assert example.prompt == "! [A X!|B Y!]"


def test_of_several_right_options_all_must_be_there() -> None:
    renderer = TaskRenderer(examples.choice(metrics=["span_em"]))
    row = {"start": "Go", "options": ["b", "a", "c"], "answer": ["a", "b"]}
    example = renderer.render(row, 0)
    assert (example.label, example.gold) == (1, ("a", "b"))
    assert renderer.render(row | {"answer": 2}, 0).gold == ("c",)
    for wrong in ([], ["a", "d"]):
        with pytest.raises(DataError, match="not the texts of right options"):
            renderer.render(row | {"answer": wrong}, 0)


def test_accuracy_knows_one_right_option() -> None:
    renderer = TaskRenderer(examples.choice())
    row = {"start": "Go", "options": ["b", "a", "c"], "answer": ["a", "b"]}
    with pytest.raises(DataError, match="several right options, of which accuracy knows one"):
        renderer.render(row, 0)
    assert renderer.render(row | {"answer": ["a", "a"]}, 0).label == 1


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (15.0, "15"), (1.5, "1.5"), (-2.0, "-2"), ("15.0", "15.0")]
)
def test_a_number_to_generate_is_spelled_out(value: object, text: str) -> None:
    row = {"text": "a", "target": value}
    assert TaskRenderer(examples.generation()).render(row, 0).label == text


def test_extra_columns_are_seen_by_templates_only() -> None:
    columns = {"inputs": ["sentence"], "extra": ["place", "tags"], "label": "label"}
    task = examples.sentiment(columns=columns, template="{{ place + 1 }}{{ tags | join }}")
    example = TaskRenderer(task).render(
        {"sentence": "x", "place": 4, "tags": ["a", "b"], "label": 0}, 0
    )
    assert (example.prompt, example.segments) == ("5ab", ("x",))


def test_generation_has_no_options_and_its_label_is_the_target() -> None:
    example = TaskRenderer(examples.generation()).render({"text": "ten", "target": "10"}, 0)
    assert (example.options, example.label) == ((), "10")


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (examples.sentiment(), {"sentence": "x", "label": 7}),
        (examples.sentiment(), {"sentence": "x", SOURCE_ROW: 5}),
        (examples.choice(), {"start": "x", "options": ["a"], "answer": 0}),
        (examples.choice(metrics=["span_em"]), {"start": "x", "options": ["a", "b"], "answer": []}),
    ],
)
def test_gold_is_refused_in_the_words_of_the_whole_row(task: Task, row: dict[str, Any]) -> None:
    renderer, said = TaskRenderer(task), []
    for read in (renderer.gold, renderer.render):
        with pytest.raises(DataError) as caught:
            read(row, 3)
        said.append(str(caught.value))
    assert said[0] == said[1]


_BAD_ROWS: list[tuple[Task, dict[str, Any], str]] = [
    (examples.sentiment(), {"sentence": "x", "label": 2}, "label"),
    (examples.sentiment(), {"sentence": "x", "label": -1}, "label"),
    (examples.sentiment(), {"sentence": "x", "label": None}, "label"),
    (examples.sentiment(), {"sentence": "x", "label": 0.5}, "label"),
    (examples.sentiment(labels=["a", "b", "c"]), {"sentence": "x", "label": True}, "label"),
    (examples.sentiment(), {"sentence": "x", "label": "goood"}, "label"),
    (examples.sentiment(), {"sentence": "x", "label": "2"}, "label"),
    (examples.sentiment(), {"sentence": None, "label": 1}, "sentence"),
    (examples.sentiment(), {"sentence": 12, "label": 1}, "sentence"),
    (examples.sentiment(), {"sentense": "x", "label": 1}, "sentence"),
    (examples.score(), {"first": "a", "second": "b", "score": 5.1}, "score"),
    (examples.score(), {"first": "a", "second": "b", "score": float("nan")}, "score"),
    (examples.score(), {"first": "a", "second": "b", "score": "3"}, "score"),
    (examples.score(), {"first": "a", "second": "b", "score": True}, "score"),
    (examples.choice(), {"start": "a", "options": ["b", "c"], "answer": 2}, "answer"),
    (examples.choice(), {"start": "a", "options": ["b", "c"], "answer": "A"}, "answer"),
    (examples.choice(), {"start": "a", "options": ["b", "b"], "answer": "b"}, "answer"),
    (examples.choice(), {"start": "a", "options": ["b", "c"], "answer": True}, "answer"),
    (examples.choice(), {"start": "a", "options": ["b"], "answer": 0}, "options"),
    (examples.choice(), {"start": "a", "options": "bc", "answer": 0}, "options"),
    (examples.choice(), {"start": "a", "options": ["b", None], "answer": 0}, "options"),
    (examples.choice(["p", "q"]), {"start": "a", "p": "b", "answer": 0}, "q"),
    (examples.generation(), {"text": "a", "target": None}, "target"),
    (examples.generation(), {"text": "a", "target": True}, "target"),
    (examples.generation(), {"text": "a", "target": float("inf")}, "target"),
    (
        examples.sentiment(template="{{ sentence.split(',')[1] }}"),
        {"sentence": "no comma", "label": 1},
        "template",
    ),
    (
        examples.sentiment(segments=["{{ sentence }}", "{{ 1 / (sentence | length) }}"]),
        {"sentence": "", "label": 1},
        "segments[1]",
    ),
]


@pytest.mark.parametrize(("task", "row", "field"), _BAD_ROWS)
def test_a_bad_row_is_named_with_task_row_and_field(
    task: Task, row: dict[str, Any], field: str
) -> None:
    with pytest.raises(DataError) as error:
        TaskRenderer(task).render(row, 17)
    assert f"Task {task.name!r}, row 17" in error.value.problem
    assert f"field {field!r}" in error.value.problem
    assert error.value.action


def test_a_missing_column_names_the_nearest_and_what_is_there() -> None:
    with pytest.raises(DataError, match=r"Did you mean 'sentense'(.|\n)*sentense, label"):
        TaskRenderer(examples.sentiment()).render({"sentense": "x", "label": 1}, 0)


def test_a_row_that_knows_its_place_in_its_file_is_named_by_it() -> None:
    row = {"sentence": "x", "label": 5, SOURCE_ROW: 301}
    with pytest.raises(DataError, match="row 301"):
        TaskRenderer(examples.sentiment()).render(row, 0)


def test_rows_to_predict_need_no_label() -> None:
    renderer = TaskRenderer(examples.score(scale={"low": 1, "high": 5, "step": 1}))
    row = {"first": "a", "second": "b"}
    assert renderer.render(row, 0, labelled=False).label == 1
    with pytest.raises(DataError, match="'score': the column is missing"):
        renderer.render(row, 0)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ sentense }}", "unknown variable 'sentense'. Did you mean 'sentence'"),
        ("{{ sentence }} {{ label }}", "shows the label column"),
        ("{{ sentence ", "line 1 of the template"),
        ("{% for i in range(9) %}x{% endfor %}", "unknown variable 'range'"),
        ("{{ cycler.__init__ }}", "unknown variable 'cycler'"),
    ],
)
def test_a_bad_template_is_refused_before_any_row(template: str, message: str) -> None:
    with pytest.raises(TaskError) as error:
        TaskRenderer(examples.sentiment(template=template))
    assert message in error.value.problem


def test_a_nested_field_in_a_template_needs_an_alias() -> None:
    columns: dict[str, Any] = {"inputs": ["sentence"], "label": "label", "extra": ["meta.kind"]}
    with pytest.raises(TaskError, match=r"columns.aliases: \{NAME: meta.kind\}"):
        TaskRenderer(examples.sentiment(template="{{ meta.kind }}", columns=columns))
    columns |= {"extra": ["kind"], "aliases": {"kind": "meta.kind"}}
    task = examples.sentiment(template="{{ kind }}", columns=columns)
    row = {"sentence": "x", "meta": {"kind": "film"}, "label": 1}
    assert TaskRenderer(task).render(row, 0).prompt == "film"


_PRIVATE = st.sampled_from(
    ["__class__", "__mro__", "__subclasses__()", "__init__", "__globals__", "__getattribute__"]
)


@settings(deadline=None)
@given(st.lists(_PRIVATE, min_size=1, max_size=4), st.sampled_from(["sentence", "options", "''"]))
def test_no_attribute_leads_out_of_the_sandbox(path: list[str], start: str) -> None:
    dotted = f"{{{{ {'.'.join([start, *path])} }}}}"
    filtered = f"{{{{ {start} | attr('{path[0].removesuffix('()')}') }}}}"
    for template in (dotted, filtered):
        with pytest.raises((DataError, TaskError)):
            TaskRenderer(examples.sentiment(template=template)).render(
                {"sentence": "x", "label": 0}, 0
            )


def test_a_template_can_not_change_the_row() -> None:
    task = examples.choice(template="{{ start }}{% if options.append('c') %}{% endif %}")
    with pytest.raises(DataError, match="template"):
        TaskRenderer(task).render({"start": "a", "options": ["b", "c"], "answer": 0}, 0)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_rendered_as_it_is(text: str) -> None:
    example = TaskRenderer(examples.sentiment(template="{{ sentence }}")).render(
        {"sentence": text, "label": "good"}, 0
    )
    assert example.prompt == text
    assert example.segments == (text,)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{{ note }}", ""),
        ("{{ 'Note: ' ~ note }}{{ note | upper }}", "Note: "),
        ("{{ [note, note] | join('-') }}", "-"),
        ("{% if note %}yes{% else %}no{% endif %}", "no"),
        ("{% if note is none %}none{% endif %}", "none"),
        ("{{ note == none }}", "True"),
        ("{{ note | default('?', true) }}", "?"),
        ("{{ note == '' }}{{ note != '' }}{{ note in ['', 'a'] }}", "TrueFalseTrue"),
        ("{{ note | length }}{{ note.strip() }}{% for n in note %}{{ n }}{% endfor %}", "0"),
        ("{{ note == 0 }}{{ note == false }}", "FalseFalse"),
    ],
)
@pytest.mark.parametrize("value", [None, ""])
def test_a_further_column_without_a_value_is_none_and_an_empty_text(
    value: str | None, template: str, prompt: str
) -> None:
    columns = {"inputs": ["sentence"], "label": "label", "extra": ["note"]}
    renderer = TaskRenderer(examples.sentiment(columns=columns, template=template))
    assert renderer.render({"sentence": "x", "note": value, "label": 0}, 0).prompt == prompt


@pytest.mark.parametrize("role", ["inputs", "extra"])
def test_a_column_may_be_named_as_the_list_of_options(role: str) -> None:
    columns = {"inputs": ["sentence"], "label": "label", role: ["sentence", "options"]}
    template = "{{ sentence }}: {{ options }}"
    row = {"sentence": "x", "options": "A) a B) b", "label": 0}
    for task in (
        examples.sentiment(
            columns=columns | {"extra": columns.get("extra", [])}, template=template
        ),
        examples.generation(
            columns={"inputs": ["sentence", "options"], "label": "label"}, template=template
        ),
    ):
        assert TaskRenderer(task).render(row, 0, labelled=False).prompt == "x: A) a B) b"


def test_a_column_named_as_a_variable_of_its_template_is_refused() -> None:
    columns = {"inputs": ["start"], "choices": "options", "label": "answer", "extra": ["index"]}
    task = examples.choice(columns=columns, option="{{ index }} {{ option }}")
    with pytest.raises(TaskError, match="option: 'index' is a variable of this template and a col"):
        TaskRenderer(task)
    named = {"inputs": ["start"], "choices": "option", "label": "answer"}
    task = examples.choice(columns=named, template="{{ start }}", option="{{ option }}!")
    row = {"start": "Go", "option": ["a", "b"], "answer": 0}
    assert TaskRenderer(task).render(row, 0).options == ("a!", "b!")


@pytest.mark.parametrize("braces", ["{sentence}", "${ sentence }", "{sentence}: {{ sentence }}"])
def test_a_field_in_single_braces_is_refused(braces: str) -> None:
    with pytest.raises(TaskError, match=r"template: .*sentence.* is a text, the same in every row"):
        TaskRenderer(examples.sentiment(template=braces))
    for text in ('{"a": 1} {{ sentence }}', "{{ sentence }} {other}", "{{ '{sentence}' }}"):
        TaskRenderer(examples.sentiment(template=text))


@pytest.mark.parametrize("sum_", ["note * 2", "2 * note", "note + 1", "note > 1"])
def test_nothing_can_be_calculated_with_no_value(sum_: str) -> None:
    columns = {"inputs": ["sentence"], "label": "label", "extra": ["note"]}
    renderer = TaskRenderer(examples.sentiment(columns=columns, template=f"{{{{ {sum_} }}}}"))
    with pytest.raises(DataError, match="the template fails"):
        renderer.render({"sentence": "x", "note": None, "label": 0}, 0)


@pytest.mark.parametrize(
    ("shown", "value", "message"),
    [
        ("note|int", None, r"'' is no number; \|int\(0\) reads what is none as 0"),
        ("note|int", "true", "'true' is no number"),  # 1 as a Boolean value
        ("note|float", "about 3", r"'about 3' is no number; \|float\(0\)"),
        ("note * 2", None, "a field without a value can't be multiplied"),
        ("note.title", "x", "method title of str object .* would be printed, which is no text"),
        ("note.split()|map('upper')", "x", "generator object .* would be printed"),
    ],
)
def test_what_is_no_value_is_not_printed(shown: str, value: object, message: str) -> None:
    columns = {"inputs": ["sentence"], "label": "label", "extra": ["note"]}
    task = examples.sentiment(columns=columns, template=f"{{{{ sentence }}}} {{{{ {shown} }}}}")
    with pytest.raises(DataError, match=message):
        TaskRenderer(task).render({"sentence": "x", "note": value, "label": 0}, 0)


def test_numbers_are_read_in_templates() -> None:
    columns = {"inputs": ["sentence"], "label": "label", "extra": ["note"]}
    template = "{{ note|int + 1 }} {{ ' 2.5'|float }} {{ 'ff'|int(base=16) }} {{ sentence|int(0) }}"
    renderer = TaskRenderer(examples.sentiment(columns=columns, template=template))
    for value in (3, "3", 3.7, " 3 ", "3.7"):
        row = {"sentence": "x", "note": value, "label": 0}
        assert renderer.render(row, 0).prompt == "4 2.5 255 0"


@pytest.mark.parametrize("name", ["1", "none", "True"])
def test_a_column_that_templates_read_as_a_value_is_refused(name: str) -> None:
    columns = {"inputs": ["sentence"], "label": "label", "extra": [name]}
    with pytest.raises(TaskError, match=f"{{{{ {name} }}}} is a value, the same in every row"):
        TaskRenderer(
            examples.sentiment(columns=columns, template=f"{{{{ sentence }}}} {{{{{name}}}}}")
        )
    TaskRenderer(examples.sentiment(columns=columns, template="{{ sentence[1] }} {{ 2 }}{{ '1' }}"))


def test_a_prompt_is_the_same_each_time() -> None:
    with pytest.raises(TaskError, match="No filter named 'random'"):
        TaskRenderer(examples.sentiment(template="{{ sentence }} {{ ['a', 'b']|random }}"))


@pytest.mark.parametrize(
    ("value", "text"), [(2, "2"), (2.0, "2"), (2.5, "2.5"), (True, "True"), (1e20, "1e+20")]
)
def test_numbers_have_one_spelling(value: object, text: str) -> None:
    columns = {"inputs": ["sentence"], "label": "label", "extra": ["n"]}
    renderer = TaskRenderer(examples.sentiment(columns=columns, template="{{ n }}{{ ' ' ~ n }}"))
    assert renderer.render({"sentence": "x", "n": value, "label": 0}, 0).prompt == f"{text} {text}"
