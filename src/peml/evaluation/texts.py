"""How close two texts are: spans, numbers and summaries."""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = str.maketrans("", "", string.punctuation)
_GAP = r"[\u00a0\u202f\u2009'\u2019]"  # between thousands; so is a space before a 0
_GROUPS = rf"(?:{_GAP}\d{{3}}| 0\d\d)+"
_WHOLE = rf"[1-9]\d{{0,2}}(?:(?:,\d{{3}})+|{_GROUPS})|[1-9]\d?(?:,\d\d)+,\d{{3}}"  # 1,250; 1,23,456
_COMMA = rf"(?:[1-9]\d{{0,2}}(?:(?:\.\d{{3}})+|{_GROUPS})|\d+),\d+(?!\d|[.,]\d)"  # 1.250,5; 3,5
_NUMBER = re.compile(
    rf"[-\u2212]?(?:(?<![\d.,])(?:(?:{_WHOLE})(?!\d|,\d)(?:\.\d+)?|(?P<comma>{_COMMA}))"
    r"|\d+(?:\.\d+)?|\.\d+)(?:/\d+|[eE][-+]?\d+)?"
)
_ANSWER_MARK = "####"  # precedes the answer in GSM8K
_TOLERANCE = 1e-3
_OPTION = re.compile(r"(true|false)|(solution|answer|ending|option)\d+")


def span_em(gold: str | Sequence[str], predicted: str) -> float:
    """1.0 if the texts are equal except for case, punctuation, articles and spaces, else 0.0.

    As SQuAD and ReCoRD are scored: if several texts are right, the best match counts. Accented
    letters may have either Unicode form.
    """
    words = _words(predicted)
    return max(float(words == _words(text)) for text in _texts(gold))


def span_f1(gold: str | Sequence[str], predicted: str) -> float:
    """F1 of the words, normalised as in :func:`span_em`; the best match of several right texts."""
    words = _words(predicted)
    return max(_overlap(_words(text), words) for text in _texts(gold))


def _texts(gold: str | Sequence[str]) -> Sequence[str]:
    return (gold,) if isinstance(gold, str) else gold


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", composed(text).lower().translate(_MARKS)).split()


def composed(text: str) -> str:
    """A text whose accented letters are single characters (Unicode NFC)."""
    return unicodedata.normalize("NFC", text)


def _overlap(gold: list[str], predicted: list[str]) -> float:
    if not gold or not predicted:
        return float(gold == predicted)
    shared = (Counter(gold) & Counter(predicted)).total()
    return 2 * shared / (len(gold) + len(predicted))


def number_hit(gold: str, predicted: str) -> float:
    """1.0 if the number in the answer is right within 0.001, else 0.0."""
    right, answer = read_number(gold), read_number(predicted)
    if right is None or answer is None:
        return 0.0
    return float(math.isclose(right, answer, rel_tol=0, abs_tol=_TOLERANCE))


def read_number(text: str) -> float | None:
    """The answer in a text: the first number after ``####``, else the last number; None if none.

    ``$1,250.50`` is 1250.5, as ``1.250,50`` is; ``3,5`` is 3.5 and ``1,250`` 1250, ``3/4`` 0.75 and
    ``2e3`` 2000. A minus sign counts unless a letter or
    digit stands before it. ``1/0`` and what is too large for a float are no numbers.
    """
    _, mark, answer = text.rpartition(_ANSWER_MARK)
    matches = list(_NUMBER.finditer(answer))
    if not matches:
        return None
    match = matches[0] if mark else matches[-1]
    number = match[0].replace("\u2212", "-")
    number = re.sub(rf"{_GAP}| ", "", number)
    number = (
        number.replace(".", "").replace(",", ".") if match["comma"] else number.replace(",", "")
    )
    joined = match.start() > 0 and answer[match.start() - 1].isalnum()
    above, _, below = (number.removeprefix("-") if joined else number).partition("/")
    value = float(above) / (float(below or 1) or math.nan)
    return value if math.isfinite(value) else None


def option_hit(gold: str, predicted: str) -> float:
    """1.0 if the first option that the text names is the right one, else 0.0.

    An option is ``true`` or ``false``, or ``solution``, ``answer``, ``ending`` or ``option`` with
    a number, in lower case. As in LLM-Adapters (arXiv 2304.01933), only options of the same kind
    as the right one are considered.
    """
    right = _OPTION.search(gold)
    if right is None:
        return 0.0
    same_kind = (match for match in _OPTION.finditer(predicted) if match[2] == right[2])
    first = next(same_kind, None)
    return float(first is not None and first[0] == right[0])


def rouge(name: str) -> Callable[[Sequence[Any], Sequence[Any]], list[float]]:
    """A function that gives the ROUGE F-measure of each row (package rouge-score, with stemming).

    `name` is ``rouge1``, ``rouge2`` or ``rougeL``.
    """

    def score(gold: Sequence[Any], predicted: Sequence[Any]) -> list[float]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([name], use_stemmer=True)
        return [
            scorer.score(str(g), str(p))[name].fmeasure
            for g, p in zip(gold, predicted, strict=True)
        ]

    return score
