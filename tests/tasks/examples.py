"""Small tasks of every type, as dictionaries a test can bend before validating."""

from __future__ import annotations

from typing import Any

from peml.tasks import Task


def sentiment(**changes: Any) -> Task:
    return Task.model_validate(sentiment_fields() | changes)


def sentiment_fields() -> dict[str, Any]:
    return {
        "name": "mood",
        "type": "classification",
        "source": {"path": "data"},
        "columns": {"inputs": ["sentence"], "label": "label"},
        "labels": ["bad", "good"],
        "template": "{{ sentence }} It is",
        "metrics": ["accuracy"],
    }


def pair(**changes: Any) -> Task:
    fields = sentiment_fields() | {
        "name": "same",
        "type": "pair-classification",
        "columns": {"inputs": ["first", "second"], "label": "label"},
        "template": "{{ first }} / {{ second }}",
    }
    return Task.model_validate(fields | changes)


def score(**changes: Any) -> Task:
    fields = sentiment_fields() | {
        "name": "closeness",
        "type": "regression",
        "columns": {"inputs": ["first", "second"], "label": "score"},
        "labels": [],
        "scale": {"low": 0, "high": 5, "step": 0.5},
        "template": "{{ first }} / {{ second }}",
        "metrics": ["pearson"],
    }
    return Task.model_validate(fields | changes)


def choice(choices: Any = "options", **changes: Any) -> Task:
    fields = sentiment_fields() | {
        "name": "ending",
        "type": "multiple-choice",
        "columns": {"inputs": ["start"], "choices": choices, "label": "answer"},
        "labels": [],
        "template": "{{ start }} [{{ options | join('|') }}]",
    }
    return Task.model_validate(fields | changes)


def generation(**changes: Any) -> Task:
    fields = sentiment_fields() | {
        "name": "rewrite",
        "type": "generation",
        "columns": {"inputs": ["text"], "label": "target"},
        "labels": [],
        "template": "{{ text }}",
        "metrics": ["exact_match"],
    }
    return Task.model_validate(fields | changes)
