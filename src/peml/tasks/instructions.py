"""Instruction data in its usual forms, for which a task needs no template.

The last answer of a conversation is the one that is reported; all earlier turns are its prompt.
Rows become two texts: the turns as JSON, and the answer.
"""

import json
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from peml.tasks.chat import Role, Turn

Form = Literal["messages", "sharegpt", "alpaca"]

ANSWER = "answer"
"""The column that a conversation's last answer is put into."""


class _Names(NamedTuple):
    """A form's names for the parts of a turn, and for the speakers."""

    column: str
    role: str
    content: str
    roles: Mapping[object, Role]


_MESSAGES: Mapping[object, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_CONVERSATIONS: Mapping[object, _Names] = MappingProxyType(
    {
        "messages": _Names("messages", "role", "content", _MESSAGES),
        "sharegpt": _Names(
            "conversations", "from", "value", {**_MESSAGES, "human": "user", "gpt": "assistant"}
        ),
    }
)
_UNREAD = ("system", "system_prompt", "tools", "functions", "history", "chat_template_kwargs")
"""Columns that change a row's prompt where they stand, and that no form has."""
_UNREAD_IN_TURNS = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
_OTHER_WEIGHTS = ("loss", "train", "training")
_ALPACA = {
    "columns": {"inputs": ["instruction"], "extra": ["input"], "label": "output"},
    "template": "{{ instruction }}{% if input %}\n\n{{ input }}{% endif %}",
}


def is_conversation(form: Form | None) -> bool:
    """Whether rows of a form hold a list of turns."""
    return form in _CONVERSATIONS


def fill_in(definition: dict[str, Any]) -> dict[str, Any]:
    """A task's definition with the defaults of its form filled in."""
    form = definition.get("format")
    filled: dict[str, Any] = {"type": "generation", "metrics": ["rouge_l"], "chat": {}}
    if form == "alpaca":
        filled |= _ALPACA
    elif form in _CONVERSATIONS:
        column = _CONVERSATIONS[form].column
        filled |= {
            "columns": {"inputs": [column], "label": ANSWER},
            "template": f"{{{{ {column} }}}}",
        }
    else:
        return definition
    given = definition.get("columns")
    if isinstance(given, dict):
        filled["columns"] = {**filled["columns"], **given}
    return {**filled, **definition, "columns": filled["columns"]}


def split_row(
    form: Form | None, row: dict[str, Any], *, labelled: bool = True, used: Collection[str] = ()
) -> dict[str, Any]:
    """A row whose conversation is split into the turns before the last answer, and that answer.

    Rows without a form are returned unchanged, those of `alpaca` with an input. Rows to predict
    (not `labelled`) needn't have the answer. `used` are the columns that the task names.

    Raises:
        ValueError: The value is not a conversation, or a part of its prompt would be left out.
    """
    if form is None:
        return row
    _refuse_unread(row, used)
    if form not in _CONVERSATIONS:
        return {"input": None, **row}
    names = _CONVERSATIONS[form]
    value = _unspelled(row.get(names.column))
    if value is None or _is_split(value):
        return row
    turns = _read(value, names)
    ends = bool(turns) and turns[-1].role == "assistant"
    if labelled and not ends:
        raise ValueError("the conversation doesn't end with an answer of the assistant")
    if labelled and value[-1].get("weight") == 0:
        raise ValueError("the weight of the last answer is 0, so it isn't to be learnt")
    before = turns[:-1] if ends else turns
    if not before or before[-1].role != "user":
        raise ValueError("the conversation has no turn of the user in front of the last answer")
    for number, turn in enumerate(before[1:], start=1):
        if turn.role == "system":
            raise ValueError(f"turn {number} (from 0) is the system's, which can only come first")
    stored = [[turn.role, turn.content, turn.learnt] for turn in before]
    text = json.dumps(stored, ensure_ascii=False)
    return {**row, names.column: text} | ({ANSWER: turns[-1].content} if ends else {})


def read_turns(text: str, *, learnt: bool = True) -> list[Turn]:
    """The turns that `split_row` put into a text; if not `learnt`, no answer of them is learnt."""
    return [Turn(role, content, flag and learnt) for role, content, flag in json.loads(text)]


def _refuse_unread(row: Mapping[str, Any], used: Collection[str]) -> None:
    for name, value in row.items():
        column = name.partition(".")[0]
        if column in _UNREAD and value not in (None, "", [], "[]") and not {column, name} & {*used}:
            raise ValueError(
                f"{name} has a value, which would be left out of the prompt; name it in "
                "columns.extra, and show it by a header, or remove it"
            )


def _unspelled(value: Any) -> Any:
    """A conversation that is spelled as JSON, as in a CSV file; other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _is_split(value: Any) -> bool:
    """Whether these are the turns that `split_row` writes."""
    turns = value if isinstance(value, list) else []
    return bool(turns) and all(
        isinstance(turn, list) and [type(part) for part in turn] == [str, str, bool]
        for turn in turns
    )


def _joined(content: Any) -> Any:
    """The text of a content in parts, as chat services take it; other contents as they are."""
    if not isinstance(content, list) or not content:
        return content
    texts = []
    for part in content:
        given = {k: v for k, v in part.items() if v is not None} if isinstance(part, dict) else {}
        if given.keys() != {"type", "text"} or given["type"] != "text":
            return content
        texts.append(given["text"])
    return "".join(texts) if all(isinstance(text, str) for text in texts) else content


def _check_weight(turn: Mapping[str, Any], where: str) -> None:
    """Refuses an answer's weight that isn't 0 or 1, and other names of it."""
    if turn.get("weight") not in (None, 0, 1):
        raise ValueError(f"{where}: weight is {turn['weight']!r}, not 0 or 1")
    for name in _OTHER_WEIGHTS:
        if turn.get(name) not in (None, True):
            raise ValueError(
                f"{where}: {name} is {turn[name]!r}; write weight: 0 for answers that "
                "are not to be learnt"
            )


def _read(value: Any, names: _Names) -> list[Turn]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list of turns")
    turns = []
    for number, turn in enumerate(value):
        where = f"turn {number} (from 0)"
        if not isinstance(turn, Mapping):
            raise ValueError(f"{where}: {turn!r} is not an object with {names.role}")
        role, content = turn.get(names.role), _joined(turn.get(names.content))
        if not isinstance(role, str) or role not in names.roles:
            raise ValueError(
                f"{where}: {names.role} is {role!r}, not {' or '.join(map(str, names.roles))}"
            )
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"{where}: {names.content} is {content!r}, not a text")
        unread = [name for name in _UNREAD_IN_TURNS if turn.get(name)]
        if unread:
            raise ValueError(f"{where} has {unread[0]}, and only its {names.content} can be learnt")
        _check_weight(turn, where)
        speaker = names.roles[role]
        answers = speaker == "assistant"
        text = content.strip() if answers else content  # as a generated answer is
        turns.append(Turn(speaker, text, answers and turn.get("weight") != 0))
    return turns
