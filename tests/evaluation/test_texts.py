"""Spans, numbers and summaries, by hand and against their references."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import pytest
from rouge_score.rouge_scorer import RougeScorer

from peml.errors import DataError
from peml.evaluation import refuse_unscorable
from peml.evaluation.metrics import METRICS
from peml.evaluation.texts import option_hit, read_number, span_em, span_f1
from tests.tasks.examples import generation


@pytest.mark.parametrize(
    ("gold", "said", "em", "f1"),
    [
        ("The red Fox!", "red fox", 1, 1),
        (["Mira Olsen", "Olsen"], "Olsen", 1, 1),
        (["Mira Olsen", "Lund"], "Olsen", 0, 2 * 1 * 0.5 / 1.5),
        (("a b c", "b c"), "c c d", 0, 0.4),  # "a" is an article: one word of two and of three
        ("Lund", "Olsen", 0, 0),
        ("the", "a", 1, 1),
        ("Lund", "", 0, 0),
    ],
)
def test_spans_are_compared_as_squad_does(gold: str, said: str, em: float, f1: float) -> None:
    assert span_em(gold, said) == em
    assert span_f1(gold, said) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 2*3=<<2*3=6>>6 eggs.\n#### 6", 6),
        ("#### 1,250 crowns, or 3 each", 1250),
        ("First 3, then 4.5 apples.", 4.5),
        ("It is $1,250.50.", 1250.5),
        ("It falls to -7 degrees", -7),
        ("\u22127", -7),
        ("10-3", 3),
        ("x=-3", -3),
        (".5", 0.5),
        ("1/6 of it", 1 / 6),
        ("10/2 = 5", 5),
        ("2e3", 2000),
        ("12,3456", 12.3456),
        ("3,5", 3.5),  # or 3,5 and 4,5 would be equal
        ("0,333 m", 0.333),
        ("1.250,50 and no more", 1250.5),
        ("1,23,456", 123456),
        ("1\u202f250", 1250),
        ("3 000 or 12'500", 12500),
        ("3 000,5.", 3000.5),
        ("5 100", 100),
        ("1,2,3", 3),
        ("1,250,", 1250),
        ("none at all", None),
        ("a - b", None),
        ("", None),
        ("12 ####", None),
        ("on 3/4/2024", 2024),  # a date: the number behind a fraction is one of its own
        ("2e3/4", 4),
        ("1/0", None),
        ("1e999", None),
    ],
)
def test_the_answer_is_read_out_of_the_text(text: str, number: float | None) -> None:
    assert read_number(text) == number


def test_numbers_match_by_value_not_by_spelling() -> None:
    gold = ["so 8\n#### 8", "15.0", "1.8333333333333335", "3", "4", "no"]
    said = ["The answer is 8.", "15", "1.833", "#### 4", "none", "no"]
    assert METRICS["number_match"](gold, said) == pytest.approx(3 / 6)


def test_accents_have_either_unicode_form() -> None:
    apart, composed = "De\u0301ja\u0300 vu", "d\u00e9j\u00e0 vu"
    for metric in ("exact_match", "span_em", "span_f1"):
        assert METRICS[metric]([apart], [composed]) == 1


@pytest.mark.parametrize(
    ("metric", "lost"),
    [
        ("rouge_l", "\u4f60\u597d"),  # only a to z and digits are read
        ("span_em", "A"),  # an article: the empty text would be right
        ("span_f1", "+"),
        ("number_match", "seven"),
        ("option_match", "B"),
        ("bleu", "three words only"),  # of four words
    ],
)
def test_answers_that_a_metric_can_not_score_are_told(metric: str, lost: str) -> None:
    task = generation(metrics=[metric])
    with pytest.raises(DataError, match=f"{metric} can't score 2 of 2 rows of FILE.*row 3"):
        refuse_unscorable(task, [lost, lost], [3, 4], "FILE")
    behind = generation(metrics=["exact_match", metric])
    with pytest.warns(UserWarning, match=f"{metric} can't score 2 of 2"):
        refuse_unscorable(behind, [lost, lost], [3, 4], "FILE")
    fine = "the correct answer is answer1 of 4 words"
    with nullcontext() if metric == "bleu" else pytest.warns(UserWarning, match="1 of 2 rows"):
        refuse_unscorable(task, [fine, lost], [3, 4], "FILE")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refuse_unscorable(task, [fine, ""] if metric != "bleu" else [fine], [3, 4], "FILE")


@pytest.mark.parametrize("metric", ["rouge_l", "bleu", "exact_match", "span_f1"])
def test_a_split_of_empty_answers_is_refused(metric: str) -> None:
    """As hidden ones often are: ROUGE would be 0 for every model."""
    with pytest.raises(DataError, match="2 of 2 rows of FILE: it reads no answer in ''") as said:
        refuse_unscorable(generation(metrics=[metric]), ["", " "], [3, 4], "FILE")
    assert "report another split" in said.value.action


@pytest.mark.parametrize(
    ("metric", "name"), [("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")]
)
def test_rouge_is_that_of_rouge_score(metric: str, name: str) -> None:
    gold = ["the cats were running home", "a dog"]
    said = ["the cat ran home", "one dog"]
    scorer = RougeScorer([name], use_stemmer=True)
    wanted = [scorer.score(g, s)[name].fmeasure for g, s in zip(gold, said, strict=True)]
    assert wanted[0] > 0
    assert METRICS[metric](gold, said) == pytest.approx(sum(wanted) / 2, abs=1e-12)


@pytest.mark.parametrize(
    ("gold", "said", "hit"),
    [
        ("the correct answer is answer2", "the correct answer is answer2", 1),
        ("the correct answer is answer2", "answer2 rather than answer1", 1),
        ("the correct answer is answer2", "answer1, or answer2", 0),
        ("answer1", "answer10", 0),
        ("the correct answer is true", "answer1: true", 1),  # the first of the right one's kind
        ("the correct answer is true", "false or true", 0),
        ("ending4", "Ending4", 0),  # as published: in lower case
        ("solution1", "solution 1", 0),
        ("option1", "", 0),
        ("no option", "no option", 0),
    ],
)
def test_the_first_option_named_counts(gold: str, said: str, hit: float) -> None:
    assert option_hit(gold, said) == hit
    assert METRICS["option_match"]([gold], [said]) == hit
