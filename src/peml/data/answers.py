"""What a text-to-text model reads before an answer, and the tokens of the answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from peml.data.batch import IGNORED
from peml.data.encoding import EncodedSplit, EncodesExamples, encode_rows
from peml.data.rows import Rows
from peml.tasks import Task, TaskRenderer

_TAIL = 40
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The answers of a task's first reported row, as a model is asked for them.

    Attributes:
        tail: End of the prompt.
        answers: Tokens of the first options, or of the right text.
        more: Number of options that are left out.
    """

    tail: str
    answers: tuple[tuple[str, ...], ...]
    more: int


def show_answers(task: Task, rows: Rows, family: EncodesExamples) -> AnswerTokens | None:
    """The first row's answers; None without rows, or for a model that answers through a head."""
    if not len(rows):
        return None
    example = TaskRenderer(task).render(rows[0], 0)
    encoded = encode_rows([example], task, family, task.type.compared_as)
    answers = list(_answers(encoded.rows[0]["labels"]))
    if not answers:
        return None
    spelled = tuple(
        tuple(family.tokenizer.convert_ids_to_tokens(answer)) for answer in answers[:_SHOWN]
    )
    prompt = example.prompt
    if example.turns:
        before = encoded.rows[0]["labels"][0].count(IGNORED)
        prompt = family.tokenizer.decode(encoded.rows[0]["input_ids"][0][:before])
    return AnswerTokens(prompt[-_TAIL:], spelled, len(answers) - len(spelled))


def nested_rows(split: EncodedSplit) -> list[int]:
    """Numbers of the rows in which all tokens of an option are the first tokens of another."""
    return [
        number
        for number, row in enumerate(split.rows)
        if _nested([answer[:-1] for answer in _answers(row["labels"])])  # without the end token
    ]


def _answers(labels: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    for sequence in labels:
        yield [token for token in sequence if token != IGNORED]


def _nested(answers: list[list[int]]) -> bool:
    """Whether one is the beginning of another; sorted, it stands directly before such a one."""
    ordered = sorted(answers)
    return any(
        len(one) < len(other) and other[: len(one)] == one for one, other in pairwise(ordered)
    )
