"""Toy runs: a suite of five tiny tasks, a tiny model and a config, all written by the test."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]

FAMILIES = {"encoder": "bert", "causal": "llama", "seq2seq": "t5"}
"""Family: the tiny model that stands for it."""

_SMALL_LORA: Row = {"r": 4, "alpha": 8, "learning_rate": 0.01}

METHODS: dict[str, Row] = {
    "peml": {
        "name": "peml",
        "lora": _SMALL_LORA,
        "prefix": {
            "length": [2, 4],
            "width": 8,
            "cells": 2,
            "operations": ["skip", "linear", "mlp-tanh"],
        },
        "prefix_learning_rate": 0.01,
    },
    "lora": {"name": "lora", "lora": _SMALL_LORA},
    "lora+prefix": {"name": "lora+prefix", "lora": _SMALL_LORA, "length": 4, "width": 8}
    | {"prefix_learning_rate": 0.01},
}
"""Method: its section of the config, small enough for a toy."""

_GOOD, _BAD = ("good", "fun", "yes"), ("bad", "dull", "no")
_THINGS = ("dog", "box", "ball", "man", "film")
_COMMON = {"source": {"path": "data"}, "labels": [], "version": 1}

_TASKS: list[Row] = [
    {
        "name": "mood",
        "type": "classification",
        "columns": {"inputs": ["sentence"], "label": "label"},
        "labels": ["bad", "good"],
        "template": "{{ sentence }} It is",
        "metrics": ["accuracy", "f1"],
    },
    {
        "name": "same",
        "type": "pair-classification",
        "columns": {"inputs": ["first", "second"], "label": "label"},
        "labels": ["different", "similar"],
        "template": "{{ first }} and {{ second }} are",
        "metrics": ["accuracy"],
    },
    {
        "name": "closeness",
        "type": "regression",
        "columns": {"inputs": ["first", "second"], "label": "score"},
        "scale": {"low": 0, "high": 2, "step": 1},
        "template": "{{ first }} / {{ second }} score",
        "metrics": ["pearson", "spearman"],
    },
    {
        "name": "ending",
        "type": "multiple-choice",
        "columns": {"inputs": ["start"], "choices": "options", "label": "answer"},
        "template": "{{ start }}",
        "metrics": ["accuracy"],
    },
    {
        "name": "rewrite",
        "type": "generation",
        "columns": {"inputs": ["text"], "label": "target"},
        "template": "say {{ text }}",
        "metrics": ["exact_match", "rouge_l"],
    },
]


def _mood(rng: random.Random) -> Row:
    label = rng.randrange(2)
    return {"sentence": f"the {rng.choice(_THINGS)} is {rng.choice((_BAD, _GOOD)[label])}"} | {
        "label": label
    }


def _same(rng: random.Random) -> Row:
    first = rng.choice(_THINGS)
    second = rng.choice((first, rng.choice(_THINGS)))
    return {"first": first, "second": second, "label": int(first == second)}


def _closeness(rng: random.Random) -> Row:
    words = rng.choice(_GOOD), rng.choice(_GOOD + _BAD)
    return {"first": words[0], "second": words[1], "score": 2.0 * (words[1] in _GOOD)}


def _ending(rng: random.Random) -> Row:
    options = [rng.choice(_GOOD), rng.choice(_BAD)]
    rng.shuffle(options)
    answer = int(options[1] in _GOOD)
    return {"start": f"the {rng.choice(_THINGS)} is", "options": options, "answer": answer}


def _rewrite(rng: random.Random) -> Row:
    word = rng.choice(_THINGS)
    return {"text": word, "target": word}


_ROWS: dict[str, Callable[[random.Random], Row]] = {
    "mood": _mood,
    "same": _same,
    "closeness": _closeness,
    "ending": _ending,
    "rewrite": _rewrite,
}


def _numbered(row: Row, number: str) -> Row:
    """A row that no other equals: its first text begins with its number."""
    name, text = next(iter(row.items()))
    return {**row, name: f"{number} {text}"}


def write_rows(path: Path, rows: list[Row]) -> None:
    """Writes JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_suite(
    folder: Path, *, train: int = 40, validation: int = 10, distinct: bool = False
) -> Path:
    """Writes ``suite.yaml`` and its rows; the same folder content every time.

    Rows have few texts, so the splits share some, unless they are to be distinct.
    """
    for task, draw in _ROWS.items():
        for split, count in (("train", train), ("validation", validation)):
            rng = random.Random(f"{task} {split}")
            rows = [draw(rng) for _ in range(count)]
            if distinct:
                rows = [_numbered(row, f"{split} {number}") for number, row in enumerate(rows)]
            write_rows(folder / "data" / task / f"{split}.jsonl", rows)
    suite = {"name": "toy", "tasks": [_COMMON | task for task in _TASKS]}
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite), encoding="utf-8")
    return path


def toy_config(
    folder: Path,
    family: str = "encoder",
    method: str | Row = "peml",
    *,
    tiny: str | None = None,
    **sections: Row,
) -> Path:
    """Writes suite, model and config, and returns the config's path.

    Args:
        folder: Where everything goes; what is there already stays.
        family: Which tiny model; an encoder gets no generation task.
        method: Key of ``METHODS``, or a whole section.
        tiny: Tiny model to use instead of the family's.
        **sections: Values merged over the config's sections.
    """
    stem = tiny or FAMILIES[family]
    if not (folder / "suite.yaml").is_file():
        write_suite(folder)
    if not (folder / stem).is_dir():
        from peml.testing.models import save_tiny_model

        save_tiny_model(stem, folder / stem)
    chosen = METHODS[method] if isinstance(method, str) else method
    rates: Row = {"learning_rates": {"heads": 0.02}} if family == "encoder" else {}
    config: Row = {
        "model": {"name": str(folder / stem), "max_length": 64},
        "tasks": {
            "suite": str(folder / "suite.yaml"),
            "exclude": ["rewrite"] if family == "encoder" else [],
        },
        "batches": {"rows": 8, "tokens": 512},
        "method": chosen,
        "training": {"epochs": 2, "log_every": 3} | rates,
        "evaluation": {"max_new_tokens": 6},
    }
    for name, values in sections.items():
        config[name] = {**config[name], **values}
    text = yaml.safe_dump(config)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    path = folder / f"{family}-{chosen['name']}-{digest}.yaml"
    path.write_text(text, encoding="utf-8")
    return path
