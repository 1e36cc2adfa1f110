"""Renders rows into examples: templates, options and labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, meta, nodes

from peml.errors import DataError, TaskError, nearest
from peml.tasks.chat import Shot, Turn
from peml.tasks.columns import SOURCE_ROW
from peml.tasks.example import Example
from peml.tasks.instructions import read_turns
from peml.tasks.label import read_label, right_option
from peml.tasks.matching import find_names
from peml.tasks.null import NULL
from peml.tasks.sandbox import SANDBOX, for_template
from peml.tasks.task import Shots, Task

_OPTIONS = "options"
_ABSENT = object()
_SINGLE_BRACES = re.compile(r"(?<![{%#'\"])\{\s*(\w+)\s*\}(?!\})")
BETWEEN = "\n\n"
"""What separates header, shots and the row's prompt."""
_FIELD_VARIABLES = {"option": ("option", "index"), "target": (_OPTIONS, "label", "index")}


def join_answer(prompt: str, answer: str) -> str:
    """The answer as it follows its prompt: after a space, unless one of them has white space there.

    Many data sets write the space themselves, at the beginning of the answer.
    """
    spaced = prompt[-1:].isspace() or answer[:1].isspace()
    return answer if spaced else f" {answer}"


def _spell_shot(shot: str | Shot) -> str:
    if isinstance(shot, str):
        return shot
    return shot.question + join_answer(shot.question, shot.answer)


@lru_cache(maxsize=4096)  # about 4 KB each; every split has a renderer
def _read_template(source: str) -> tuple[Template, frozenset[str], frozenset[str]]:
    """A template, the names of its variables, and what it prints as it is, such as ``{{ 1 }}``."""
    parsed = SANDBOX.parse(source)
    printed = (node for output in parsed.find_all(nodes.Output) for node in output.nodes)
    values = (node.value for node in printed if isinstance(node, nodes.Const))
    fixed = frozenset(str(value).lower() for value in values if not isinstance(value, str))
    return SANDBOX.from_string(parsed), frozenset(meta.find_undeclared_variables(parsed)), fixed


def shown_fields(task: Task) -> frozenset[str]:
    """The names of the fields that a task's prompts show."""
    return _read_template(task.template)[1] | _read_template(task.header or "")[1]


class TaskRenderer:
    """Renders the rows of one task.

    Templates are Jinja2 in a sandbox without globals. They can use the task's input, option and
    extra columns, and ``options``, the list of option texts, unless a column has this name. Only
    ``target`` can use the label, so that a prompt can't contain the answer. An extra column without
    a value, or with an empty text, is both none and an empty text; whole numbers are integers.

    A prompt is the task's header, its shots and the row's template, separated by blank lines. With
    ``chat``, they are also given as turns.

    Raises:
        TaskError: A template is not valid Jinja2, or uses an unknown variable.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        segments = {f"segments[{index}]": text for index, text in enumerate(task.segments or ())}
        self._segments = tuple(segments)
        sources = {
            "template": task.template,
            **segments,
            "option": task.option,
            "header": task.header,
            "target": task.target,
        }
        self._templates = {
            field: self._compile(field, source)
            for field, source in sources.items()
            if source is not None
        }
        # Of every row, unless rows have their own.
        self._fixed_options = task.scale.spell() if task.scale else task.verbalised_labels

    def render(self, row: Mapping[str, Any], index: int, *, labelled: bool = True) -> Example:
        """Renders one row.

        Args:
            row: Values by column; other columns than the task's are ignored.
            index: Row number in its split. Messages show ``SOURCE_ROW`` if the row has it.
            labelled: False for rows to predict: no label is read, and the example's label is a
                placeholder (0, the lowest score, or an empty text).

        Raises:
            DataError: A column is missing, a value or label is not allowed, or a template fails.
        """
        try:
            return self._render(row, index, labelled=labelled)
        except _RowError as problem:
            raise self._error(row, index, problem) from problem.__cause__

    def gold(self, row: Mapping[str, Any], index: int) -> int | float | str | tuple[str, ...]:
        """A row's correct answer, `Example.gold`, without rendering the whole row."""
        if self.task.target is not None:
            return self.render(row, index).gold
        try:
            choices = self._options(row)
            return self._answers(row, choices) or self._answer(row, choices)
        except _RowError as problem:
            raise self._error(row, index, problem) from problem.__cause__

    def render_solved(self, row: Mapping[str, Any], index: int) -> str | Shot:
        """A row with its answer, to be shown before other rows; without header and shots.

        It is one text, or for a chat, two separate ones.
        """
        without = {"header": None, "shots": Shots(), "context": False}
        example = TaskRenderer(self.task.model_copy(update=without)).render(row, index)
        answer = str(example.label)
        if example.options:
            answer = example.options[right_option(self.task, example)]
        shot = Shot(question=example.prompt, answer=answer)
        return shot if self.task.chat is not None else _spell_shot(shot)

    def _render(self, row: Mapping[str, Any], index: int, *, labelled: bool) -> Example:
        columns = self.task.columns
        texts = {name: self._text(row, name) for name in columns.inputs}
        choices = self._options(row)
        variables: dict[str, Any] = dict(texts)
        for name in (*columns.options, *columns.extra):
            value = self._value(row, name)
            variables[name] = NULL if value == "" else for_template(value)
        options = self._option_texts(choices, variables)
        if _OPTIONS not in (*columns.inputs, *columns.extra):
            variables[_OPTIONS] = list(options)
        segments = tuple(self._fill(field, variables) for field in self._segments)
        generates = self.task.type.generates
        question = self._fill("template", variables)
        return Example(
            index=index,
            segments=segments or tuple(texts.values()),
            prompt=BETWEEN.join([*self._before(variables), question]),
            options=() if generates else options,
            label=self._label(row, choices, variables) if labelled else self._placeholder(),
            answers=self._answers(row, choices) if labelled else (),
            context=self.context() if self.task.context else "",
            turns=self._turns(variables, question),
        )

    def context(self) -> str:
        """The text before every row, header and shots, if it is the same for all rows.

        Raises:
            TaskError: The header depends on the row.
        """
        try:
            return BETWEEN.join(self._before({}))
        except _RowError as problem:
            raise TaskError(
                f"Task {self.task.name!r}: its header depends on the row, so it can't be held as a "
                f"context ({problem})",
                allowed="a header without columns",
                action="leave the columns out of the header, or choose a method without a context",
            ) from None

    def _before(self, variables: dict[str, Any]) -> list[str]:
        return [*self._opening(variables), *map(_spell_shot, self.task.shots.examples)]

    def _opening(self, variables: dict[str, Any]) -> list[str]:
        return [] if self.task.header is None else [self._fill("header", variables)]

    def _turns(self, variables: dict[str, Any], question: str) -> tuple[Turn, ...]:
        if self.task.chat is None:
            return ()
        header = "".join(self._opening(variables))
        if self.task.is_conversation:
            text = variables[self.task.columns.inputs[0]]
            turns = read_turns(text, learnt=self.task.train_on == "every")
            return tuple(self.task.chat.open(turns, header))
        shots, texts = [], []
        for shot in self.task.shots.examples:
            if isinstance(shot, str):
                texts.append(shot)
            else:
                shots += [Turn("user", shot.question), Turn("assistant", shot.answer)]
        return tuple(self.task.chat.ask(BETWEEN.join([*texts, question]), header, shots))

    def _compile(self, field: str, source: str) -> Template:
        where = f"Task {self.task.name!r}, {field}"
        try:
            template, names, fixed = _read_template(source)
        except TemplateSyntaxError as error:
            raise TaskError(
                f"{where}: {error.message} (line {error.lineno} of the template).",
                allowed="a Jinja2 template such as 'review: {{ sentence }}'",
                action="Correct the template. A column whose name is not one word needs another "
                "in columns.aliases: {NAME: COLUMN}.",
            ) from error
        columns = self.task.columns
        own = _FIELD_VARIABLES.get(field, (_OPTIONS,))
        allowed = (*columns.shown, *own)
        for braces in _SINGLE_BRACES.finditer(source):
            if braces[1] in allowed:
                raise TaskError(
                    f"{where}: {braces[0]!r} is a text, the same in every row.",
                    allowed=f"{{{{ {braces[1]} }}}}, which shows the field",
                    action="Write two braces; for the text itself write {{ '" + braces[0] + "' }}.",
                )
        for name in (each for each in columns.shown if each.lower() in fixed):
            raise TaskError(
                f"{where}: {{{{ {name} }}}} is a value, the same in every row.",
                allowed="a column of another name",
                action=f"Read the column under another name: columns.aliases: {{NAME: {name}}}.",
            )
        for name in sorted(names.intersection(own, (*columns.inputs, *columns.extra)) - {_OPTIONS}):
            raise TaskError(
                f"{where}: {name!r} is a variable of this template and a column as well.",
                allowed="a column of another name",
                action=f"Read the column under another name: columns.aliases: {{NAME: {name}}}.",
            )
        for name in sorted(names.difference(allowed)):
            if name == columns.label:
                raise TaskError(
                    f"{where}: the template shows the label column {name!r}.",
                    allowed=", ".join(allowed),
                    action="Remove it; a prompt must not contain the answer.",
                )
            dotted = next((field for field in allowed if field.startswith(f"{name}.")), "")
            alias = (
                f"Templates read no dots: name the field in columns.aliases: {{NAME: {dotted}}}."
            )
            raise TaskError(
                f"{where}: unknown variable {name!r}.{nearest(name, allowed)}",
                allowed=", ".join(allowed),
                action=alias if dotted else "Correct the name, or add it to columns.inputs.",
            )
        return template

    def _fill(self, field: str, variables: dict[str, Any]) -> str:
        try:
            return self._templates[field].render(variables)
        except (
            TemplateError,
            ArithmeticError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise _RowError(
                field, f"the template fails: {error}", "a template that fits every row"
            ) from error

    def _value(self, row: Mapping[str, Any], name: str) -> Any:
        value = _find(row, name)
        if value is _ABSENT and name in self.task.columns.aliases:
            value = _find(row, self.task.columns.aliases[name])
        if value is _ABSENT:
            columns = [column for column in row if column != SOURCE_ROW]
            raise _RowError(
                name,
                f"the column is missing.{nearest(name, columns)}",
                f"the row has {', '.join(columns) or 'no columns'}",
            )
        return value

    def _text(self, row: Mapping[str, Any], name: str) -> str:
        value = self._value(row, name)
        if not isinstance(value, str):
            raise _RowError(name, f"{value!r} is not a text", "a text")
        return value

    def _option_texts(self, choices: tuple[str, ...], variables: dict[str, Any]) -> tuple[str, ...]:
        options = choices
        if self.task.option is not None:
            options = tuple(
                self._fill("option", {**variables, "option": choice, "index": index})
                for index, choice in enumerate(choices)
            )
        for number, option in enumerate(options):
            if not option.strip():
                raise _RowError(
                    ", ".join(self.task.columns.options),
                    f"option {number} (from 0) is empty ({option!r})",
                    "options with a text",
                )
        return options

    def _options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        choices = self.task.columns.choices
        if choices is None:
            return self._fixed_options
        if isinstance(choices, tuple):
            return tuple(self._text(row, name) for name in choices)
        return self._texts(row, choices)

    def _texts(self, row: Mapping[str, Any], name: str) -> tuple[str, ...]:
        value = self._value(row, name)
        if not isinstance(value, (list, tuple)) or len(value) < 2:
            raise _RowError(
                name, f"{value!r} is not a list of options", "a list of at least two texts"
            )
        for option in value:
            if not isinstance(option, str):
                raise _RowError(name, f"option {option!r} is not a text", "a list of texts")
        return tuple(value)

    def _label(
        self, row: Mapping[str, Any], choices: tuple[str, ...], variables: dict[str, Any]
    ) -> int | float | str:
        if self.task.target is None:
            return self._answer(row, choices)
        name = self.task.columns.label
        answer = {"label": for_template(self._value(row, name))}
        if choices:
            answer["index"] = self._answer(row, choices)
        elif answer["label"] is NULL:
            raise _RowError(name, "there is no label", "a label")
        return self._fill("target", {**variables, **answer})

    def _answer(self, row: Mapping[str, Any], choices: tuple[str, ...]) -> int | float | str:
        name = self.task.columns.label
        value = self._value(row, name)
        try:
            return read_label(self.task, value, choices, self._keys(row, len(choices)))
        except ValueError as error:
            raise _RowError(name, str(error), "") from error

    def _keys(self, row: Mapping[str, Any], count: int) -> tuple[str, ...]:
        keys = self.task.columns.keys
        if isinstance(keys, str):
            keys = self._texts(row, keys)
        if keys is not None and len(keys) != count:
            raise _RowError(
                "columns.keys", f"{len(keys)} keys for {count} options", "one key per option"
            )
        return keys or ()

    def _answers(self, row: Mapping[str, Any], choices: tuple[str, ...]) -> tuple[str, ...]:
        if not self.task.answers_in_text:
            return ()
        value = self._value(row, self.task.columns.label)
        if isinstance(value, (list, tuple)):
            return tuple(choices[find_names(text, choices)[0]] for text in value)
        return (choices[int(self._answer(row, choices))],)

    def _placeholder(self) -> int | float | str:
        if self.task.type.generates:
            return ""
        return self.task.scale.low if self.task.scale is not None else 0

    def _error(self, row: Mapping[str, Any], index: int, problem: _RowError) -> DataError:
        number = row.get(SOURCE_ROW, index)
        return DataError(
            f"Task {self.task.name!r}, row {number} (from 0), field {problem.field!r}: "
            f"{problem.text}.",
            allowed=problem.allowed,
            action="Correct the row, or the task's definition.",
            field=problem.field,
        )


def _find(row: Mapping[str, Any], name: str) -> Any:
    """A field by its dotted name, which may be a column or a path into nested objects."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    return value


class _RowError(Exception):
    """A problem with one field of a row; becomes a DataError that names task and row."""

    def __init__(self, field: str, text: str, allowed: str) -> None:
        super().__init__(text)
        self.field = field
        self.text = text.rstrip(".")
        self.allowed = allowed
