"""How close two texts are: spans, numbers and summaries."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARKS = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(r"[-\u2212]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?")
_ANSWER_MARK = "####"  # stands before the answer in GSM8K
_TOLERANCE = 1e-3
_OPTION = re.compile(r"(true|false)|(solution|answer|ending|option)\d+")


def span_em(gold: str | Sequence[str], predicted: str) -> float:
    """1.0 where the texts are the same but for case, punctuation, articles and spaces.

    As SQuAD and ReCoRD are scored: of several right texts the best counts.
    """
    said = _words(predicted)
    return max(float(said == _words(text)) for text in _texts(gold))


def span_f1(gold: str | Sequence[str], predicted: str) -> float:
    """F1 of the words, normalised as in :func:`span_em`; the best of several right texts."""
    said = _words(predicted)
    return max(_overlap(_words(text), said) for text in _texts(gold))


def _texts(gold: str | Sequence[str]) -> Sequence[str]:
    return (gold,) if isinstance(gold, str) else gold


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_MARKS)).split()


def _overlap(right: list[str], said: list[str]) -> float:
    if not right or not said:
        return float(right == said)
    shared = (Counter(right) & Counter(said)).total()
    return 2 * shared / (len(right) + len(said))


def number_hit(gold: str, predicted: str) -> float:
    """1.0 where the answer's number is the right one, within a thousandth."""
    right, said = read_number(gold), read_number(predicted)
    if right is None or said is None:
        return 0.0
    return float(math.isclose(right, said, rel_tol=0, abs_tol=_TOLERANCE))


def read_number(text: str) -> float | None:
    """The answer in a text: the first number after ``####``, or else the last number; or None.

    ``$1,250.50`` is 1250.5; a minus sign counts where no digit stands before it.
    """
    _, mark, answer = text.rpartition(_ANSWER_MARK)
    found = [
        match
        for match in _NUMBER.finditer(answer)
        if any(character.isdigit() for character in match[0])
    ]
    if not found:
        return None
    match = found[0] if mark else found[-1]
    number = match[0].replace(",", "").replace("\u2212", "-")
    joined = match.start() > 0 and answer[match.start() - 1].isalnum()
    return float(number.removeprefix("-") if joined else number)


def option_hit(gold: str, predicted: str) -> float:
    """1.0 where the first option that the text names is the right one.

    An option is ``true`` or ``false``, or ``solution``, ``answer``, ``ending`` or ``option`` with
    a number, in lower case; as in LLM-Adapters (arXiv 2304.01933), only options of the right one's
    kind are looked for.
    """
    right = _OPTION.search(gold)
    if right is None:
        return 0.0
    said = (found for found in _OPTION.finditer(predicted) if found[2] == right[2])
    first = next(said, None)
    return float(first is not None and first[0] == right[0])


def rouge(name: str) -> Callable[[Sequence[Any], Sequence[Any]], list[float]]:
    """The F-measure of a ROUGE of the package rouge-score, with stemming, for each row.

    Args:
        name: ``rouge1``, ``rouge2`` or ``rougeL``.
    """

    def score(gold: Sequence[Any], predicted: Sequence[Any]) -> list[float]:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([name], use_stemmer=True)
        return [
            scorer.score(str(g), str(p))[name].fmeasure
            for g, p in zip(gold, predicted, strict=True)
        ]

    return score
