"""The bundled benchmarks' metrics, on invented rows, against values worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn import metrics as sk

from peml.data.fields import flat_row
from peml.data.rows import Rows
from peml.evaluation import GoldSplit
from peml.evaluation.evaluate import read_gold
from peml.evaluation.metrics import compute_metrics, majority_prediction
from peml.tasks import Task
from peml.testing.tasks import tiny_family
from tests.tasks.benchmark_rows import ROWS, bundled

NOTHING: Any = None  # gold is read from the raw rows; nothing is tokenised here
SPELLING = tiny_family("t5").spelling


def gold_of(suite: str, name: str) -> tuple[Task, GoldSplit]:
    task = bundled(suite).task(name)
    rows = Rows.from_list([flat_row(row, task.columns) for row in ROWS[suite][name]])
    return task, read_gold(task, 0, rows, NOTHING, SPELLING)


CASES: list[tuple[str, str, list[Any], dict[str, float]]] = [
    *(("mmlu", name, [0, 2], {"accuracy": 1 / 2}) for name in ROWS["mmlu"]),
    ("superglue", "boolq", [1, 1], {"accuracy": 1 / 2}),
    # Macro F1 of 0, 1, 2 said to be 0, 1, 1: (1 + 2/3 + 0) / 3
    ("superglue", "cb", [0, 1, 1], {"accuracy": 2 / 3, "macro_f1": 5 / 9}),
    ("superglue", "copa", [0, 0], {"accuracy": 1 / 2}),
    # Two right answers, one found and one wrong one taken: F1 = 2/(2+1+1). Question 8 is all right.
    ("superglue", "multirc", [1, 1, 0, 0, 0], {"f1a": 1 / 2, "em": 1 / 2}),
    ("superglue", "multirc", [1, 0, 1, 1, 0], {"f1a": 4 / 5, "em": 1 / 2}),
    ("superglue", "multirc", [1, 0, 1, 0, 0], {"f1a": 1, "em": 1}),
    ("superglue", "record", ["Olsen", "Lund"], {"span_f1": 1 / 2, "span_em": 1 / 2}),
    ("superglue", "record", ["Mira", "mira olsen"], {"span_f1": (2 / 3 + 1) / 2, "span_em": 1 / 2}),
    ("superglue", "rte", [0, 0], {"accuracy": 1 / 2}),
    ("superglue", "wic", [0, 1], {"accuracy": 1}),
    ("superglue", "wsc", [0, 1], {"accuracy": 0}),
    ("glue", "cola", [0, 1], {"matthews": 1}),
    ("glue", "sst2", [1, 1], {"accuracy": 1 / 2}),
    # Both called equivalent, one is: F1 = 2/(2+1)
    ("glue", "mrpc", [1, 1], {"f1": 2 / 3, "accuracy": 1 / 2}),
    ("glue", "qqp", [0, 0], {"f1": 0, "accuracy": 1 / 2}),
    # 0, 2.5, 5 said to be 0, 0, 3: covariance 7.5, spreads sqrt(12.5) and sqrt(6)
    ("glue", "stsb", [0.0, 0.0, 3.0], {"pearson": 7.5 / 75**0.5, "spearman": 3**0.5 / 2}),
    ("glue", "mnli", [0, 2, 2], {"accuracy": 2 / 3}),
    ("glue", "qnli", [1, 0], {"accuracy": 0}),
    ("glue", "rte", [0, 1], {"accuracy": 1}),
    ("glue", "wnli", [0, 0], {"accuracy": 1 / 2}),
    ("commonsense-instruct", "boolq", ["true, not false", "true"], {"option_match": 1 / 2}),
    ("commonsense-instruct", "piqa", ["Solution1", "solution2"], {"option_match": 1 / 2}),
    ("commonsense-instruct", "siqa", ["answer3", "answer is answer1"], {"option_match": 1}),
    ("commonsense-instruct", "hellaswag", ["ending2", "ending3 ending4"], {"option_match": 1 / 2}),
    ("commonsense-instruct", "winogrande", ["option2", ""], {"option_match": 1 / 2}),
    ("commonsense-instruct", "arc-easy", ["answer1", "answer2"], {"option_match": 1}),
    ("commonsense-instruct", "arc-challenge", ["A", "option2"], {"option_match": 0}),
    ("commonsense-instruct", "openbookqa", ["the correct answer1", "3"], {"option_match": 1 / 2}),
    ("commonsense", "boolq", [1, 0], {"accuracy": 1}),
    ("commonsense", "piqa", [0, 0], {"accuracy": 1 / 2}),
    ("commonsense", "siqa", [2, 0], {"accuracy": 1}),
    ("commonsense", "hellaswag", [1, 1], {"accuracy": 1 / 2}),
    ("commonsense", "winogrande", [1, 0], {"accuracy": 1}),
    ("commonsense", "arc-easy", [0, 1], {"accuracy": 1}),
    ("commonsense", "arc-challenge", [1, 0], {"accuracy": 0}),
    ("commonsense", "openbookqa", [0, 2], {"accuracy": 1}),
    ("generation", "gsm8k", ["It is 8.", "3 of 1200\n#### 3"], {"number_match": 1 / 2}),
    ("generation", "mawps", ["3.5", "x = 4"], {"number_match": 1}),
    ("generation", "addsub", ["1+2=3", "5"], {"number_match": 1 / 2}),
    ("generation", "multiarith", ["6.0", "6"], {"number_match": 1 / 2}),
    ("generation", "singleeq", ["-1", ""], {"number_match": 1 / 2}),
    # "Ann and Bo" of "Ann and Bo have tea" is 3 of 5 words; the second is all there, and twice as
    # long: precision 1/2.
    (
        "generation",
        "samsum",
        ["Ann and Bo", "tea tea"],
        {
            "rouge_l": (3 / 4 + 2 / 3) / 2,
            "rouge_1": (3 / 4 + 2 / 3) / 2,
            "rouge_2": (2 * 2 / 6 + 0) / 2,
        },
    ),
    # the words in another order: 4 of 4 words, one of them in order; "Lund" alone of three
    (
        "generation",
        "xsum",
        ["closed is bridge a", "Lund"],
        {"rouge_l": (1 / 4 + 1 / 2) / 2, "rouge_1": (1 + 1 / 2) / 2, "rouge_2": 0},
    ),
]


@pytest.mark.parametrize(("suite", "name", "said", "wanted"), CASES)
def test_metrics_are_those_worked_out_by_hand(
    suite: str, name: str, said: list[Any], wanted: dict[str, float]
) -> None:
    task, split = gold_of(suite, name)
    found = compute_metrics(task.metrics, split.gold, said, split.groups)
    assert list(found) == list(wanted)  # the headline first
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("suite", ROWS)
def test_every_task_has_a_case_worked_out_by_hand(suite: str) -> None:
    assert {name for owner, name, _, _ in CASES if owner == suite} == set(ROWS[suite])


def test_multirc_is_f1_of_all_answers_as_scikit_learn_has_it() -> None:
    task, split = gold_of("superglue", "multirc")
    said = [0, 1, 1, 1, 0]
    found = compute_metrics(task.metrics, split.gold, said, split.groups)
    assert found["f1a"] == pytest.approx(sk.f1_score(split.gold, said))


def test_the_constant_guess_is_scored_like_any_other() -> None:
    for suite, tasks in ROWS.items():
        for name in tasks:
            task, split = gold_of(suite, name)
            guess = majority_prediction(task, split.gold)
            found = compute_metrics(
                task.metrics, split.gold, [guess] * len(split.gold), split.groups
            )
            assert set(found) == set(task.metrics)
    task, split = gold_of("superglue", "record")
    assert majority_prediction(task, split.gold) == "Mira Olsen"
