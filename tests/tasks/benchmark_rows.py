"""Invented rows in the layout of the hub's benchmarks, two or more a task, by suite and task."""

from __future__ import annotations

from functools import cache
from typing import Any

from peml.tasks import Suite, load_suite

Row = dict[str, Any]


@cache
def bundled(name: str) -> Suite:
    """A bundled suite, read once for all tests."""
    return load_suite(name)


def _superglue() -> dict[str, list[Row]]:
    pair = {"premise": "The kettle sang.", "hypothesis": "something made a sound"}
    question = {"paragraph": "Ada feeds two hens and a goat.", "question": "Whom does Ada feed?"}
    passage = "Mira Olsen met the mayor of Lund.\n@highlight\nOlsen lives in Lund"
    spans = {"text": ["Mira Olsen", "Lund"], "start": [0, 28], "end": [10, 32]}
    return {
        "boolq": [
            {"question": "is chalk soft", "passage": "Chalk is soft.", "idx": 0, "label": 1},
            {"question": "is flint soft", "passage": "Flint is hard.", "idx": 1, "label": 0},
        ],
        "cb": [{**pair, "idx": n, "label": n} for n in range(3)],
        "copa": [
            {
                "premise": "The glass fell.",
                "choice1": "It broke.",
                "choice2": "The wind rose.",
                "question": "effect",
                "idx": 0,
                "label": 0,
            },
            {
                "premise": "The glass fell.",
                "choice1": "It broke.",
                "choice2": "The cat jumped up.",
                "question": "cause",
                "idx": 1,
                "label": 1,
            },
        ],
        "multirc": [
            {**question, "answer": text, "idx": {"paragraph": 3, "question": q, "answer": n},
             "label": label}
            for n, (q, text, label) in enumerate(
                [(7, "hens", 1), (7, "a cow", 0), (7, "a goat", 1), (8, "a dog", 0), (8, "pigs", 0)]
            )
        ],
        "record": [
            {
                "passage": passage,
                "query": "@placeholder has never left Sweden.",
                "entities": ["Lund", "Mira Olsen", "Olsen"],
                "entity_spans": spans,
                "answers": ["Mira Olsen", "Olsen"],
                "idx": {"passage": 0, "query": n},
            }
            for n in range(2)
        ],
        "rte": [{**pair, "idx": n, "label": n} for n in range(2)],
        "wic": [
            {
                "word": "bank",
                "sentence1": "They sat on the bank.",
                "sentence2": f"The bank {rest}.",
                "start1": 16,
                "start2": 4,
                "end1": 20,
                "end2": 8,
                "idx": label,
                "label": label,
            }
            for label, rest in enumerate(["lends money", "is muddy"])
        ],
        "wsc": [
            {
                "text": "When he came in, the tall man greeted Otto.",
                "span1_index": 4,
                "span2_index": 1,
                "span1_text": "the tall man",
                "span2_text": "he",
                "idx": 0,
                "label": 1,
            },
            {
                "text": "Otto thanked the tall man, since he had helped Rolf.",
                "span1_index": 9,
                "span2_index": 6,
                "span1_text": "Rolf",
                "span2_text": "he",
                "idx": 1,
                "label": 0,
            },
        ],
    }  # fmt: skip


def _commonsense() -> dict[str, list[Row]]:
    choices = {"text": ["wool", "glass", "clay"], "label": ["A", "B", "C"]}
    science = [
        {"id": "x1", "question": "What keeps warm?", "choices": choices, "answerKey": "A"},
        {
            "id": "x2",
            "question": "What lets light through?",
            "choices": choices | {"label": ["1", "2", "3"]},
            "answerKey": "2",
        },
    ]
    stem = {"id": "x3", "question_stem": "A sheep gives", "choices": choices, "answerKey": "A"}
    scene = {
        "ind": 0,
        "activity_label": "Baking",
        "ctx_a": "A man stirs.",
        "ctx_b": "he",
        "ctx": "[header] Bread [title] Stir. [step] A man stirs. he",
        "endings": ["sings.", "[substeps] kneads. [title] Wait.", "flies.", "melts."],
        "label": "1",
    }
    tries = {"sentence": "The cup hid the key, as the _ was small.", "option1": "cup"}
    return {
        "boolq": [
            {"question": "is chalk soft", "answer": True, "passage": "Chalk is soft."},
            {"question": "is flint soft", "answer": False, "passage": "Flint is hard."},
        ],
        "piqa": [
            {"goal": "Dry a shirt", "sol1": "Hang it up.", "sol2": "Drown it.", "label": label}
            for label in (0, 1)
        ],
        "siqa": [
            {
                "context": "Kim lost a ring.",
                "question": "What will Kim do?",
                "answerA": "dance",
                "answerB": "eat",
                "answerC": "search",
                "label": label,
            }
            for label in ("3", "1")
        ],
        "hellaswag": [scene, scene | {"label": "3"}],
        "winogrande": [tries | {"option2": "key", "answer": key} for key in ("2", "1")],
        "arc-easy": science,
        "arc-challenge": science,
        "openbookqa": [stem, stem | {"answerKey": "C"}],
    }


def _generation() -> dict[str, list[Row]]:
    steps = "She has 4*2=<<4*2=8>>8 eggs.\n#### {}"
    chat = {"id": "1", "dialogue": "Ann: tea?\nBo: yes", "summary": "Ann and Bo have tea."}
    news = {"document": "A bridge in Lund was closed.", "summary": "A bridge is closed.", "id": "1"}
    return {
        "gsm8k": [{"question": "How many?", "answer": steps.format(n)} for n in ("8", "1,200")],
        "mawps": [
            {"id": "1", "question": "How far?", "result": "7/2", "result_float": 3.5},
            {"id": "2", "question": "How long?", "result": "4", "result_float": 4.0},
        ],
        "addsub": [
            {"input": f"{n} and 2?", "output_answer": f"{n + 2}.0", "split": "test"} for n in (1, 2)
        ],
        "multiarith": [{"question": " 2 by 3? ", "final_ans": text} for text in ("6", "6.5")],
        "singleeq": [
            {"input": f"{n} less 2?", "output_answer": str(n - 2), "split": "test"} for n in (1, 2)
        ],
        "samsum": [chat, chat | {"summary": "Tea."}],
        "xsum": [news, news | {"summary": "Lund is closed."}],
    }


def _mmlu() -> dict[str, list[Row]]:
    choices = ["a line", "a point", "a plane", "none"]
    return {
        task.name: [
            {"question": f"What is {n}?", "subject": task.name, "choices": choices, "answer": n}
            for n in (0, 3)
        ]
        for task in bundled("mmlu").tasks
    }


def _glue() -> dict[str, list[Row]]:
    pair = {"sentence1": "The kettle sang.", "sentence2": "Something sang."}
    rows: dict[str, list[Row]] = {
        "cola": [{"sentence": "He them saw."}, {"sentence": "He saw them."}],
        "sst2": [{"sentence": "a dull film "}, {"sentence": "a fine film "}],
        "mrpc": [pair, pair],
        "qqp": [{"question1": "Is it late?", "question2": "Is it early?"}] * 2,
        "mnli": [{"premise": "The kettle sang.", "hypothesis": "Something sang."}] * 3,
        "qnli": [{"question": "What sang?", "sentence": "The kettle sang."}] * 2,
        "rte": [pair, pair],
        "wnli": [pair, pair],
    }
    labelled = {
        name: [row | {"label": n, "idx": n} for n, row in enumerate(own)]
        for name, own in rows.items()
    }
    scored = [pair | {"label": label, "idx": n} for n, label in enumerate((0.0, 2.5, 5.0))]
    order = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
    return {name: labelled.get(name, scored) for name in order}


ROWS: dict[str, dict[str, list[Row]]] = {
    "glue": _glue(),
    "mmlu": _mmlu(),
    "superglue": _superglue(),
    "generation": _generation(),
    "commonsense": _commonsense(),
    "commonsense-instruct": _commonsense(),
}
