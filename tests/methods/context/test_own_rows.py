"""Rows that are shown and trained on see the other demonstrations only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from peml.data.solved import SolvedRows
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.context.own import find_spans
from peml.methods.context.settings import ContextSettings, LoraContextSettings
from peml.methods.registry import build_method
from peml.tasks import Shots, Task
from peml.testing import TINY_ROWS, TINY_TASKS, batch_of, tiny_task_model
from peml.testing.tasks import tiny_family

MOOD = ("the dog was good It is good", "the box was bad It is bad", "the man was good It is good")
OTHERS = ("a man and the box are different", "yes and no are different")
UNSEEN: tuple[dict[int, tuple[int, ...]], ...] = ({0: (1,), 3: (0, 2)}, {}, {})
"""Places in the first task's context which rows 0 and 3 of `TINY_ROWS` don't see."""


class _Solved(SolvedRows):
    def __init__(self) -> None: ...

    def unseen(self, task: int) -> dict[int, tuple[int, ...]]:
        return UNSEEN[task]


def _tasks(mood: Sequence[str] = MOOD, *, context: bool = True) -> tuple[Task, ...]:
    return tuple(
        task.model_copy(
            update={
                "context": context,
                "header": "Answer.",
                "shots": Shots(examples=tuple(mood) if task.name == "mood" else OTHERS),
            }
        )
        for task in TINY_TASKS
    )


def _attached(
    leave: str | None,
    of: str = "frozen",
    mood: Sequence[str] = MOOD,
    name: str = "llama",
    solved: SolvedRows | None = None,
) -> AttachedModel:
    still: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = tiny_task_model(name, _tasks(mood), **(still if name == "bert" else {}))
    settings: dict[str, Any] = {"of": of, "leave_one_out": leave}
    section = LoraContextSettings.model_validate({"lora": {"r": 4}, "context": settings})
    context = AttachContext(seed=0, calibrate=lambda: None, solved=solved or _Solved())
    attached = build_method(section).attach(model, context).train()
    torch.manual_seed(1)
    with torch.no_grad():  # gives the LoRA something to say
        for parameter in (p for group in attached.groups() for p in group.parameters):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return attached


def _losses(model: AttachedModel) -> Tensor:
    with torch.no_grad():
        losses: Tensor = model(batch_of(model.base)).losses
    return losses


@pytest.mark.parametrize("of", ["frozen", "adapted"])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_exactly_left_out_a_row_sees_a_context_without_itself(name: str, of: str) -> None:
    found = _losses(_attached("exact", of, name=name))
    whole = _losses(_attached(None, of, name=name))
    for example, (task, _) in enumerate(TINY_ROWS):
        unseen = UNSEEN[task].get(example)
        if unseen is None:
            torch.testing.assert_close(found[example], whole[example])
            continue
        others = [text for place, text in enumerate(MOOD) if place not in unseen]
        alone = _losses(_attached(None, of, others, name=name))
        torch.testing.assert_close(found[example], alone[example], atol=1e-5, rtol=1e-5)
        assert (found[example] - whole[example]).abs() > 1e-4


class _OneOfEach(_Solved):
    def unseen(self, task: int) -> dict[int, tuple[int, ...]]:
        return {row: tuple(range(len(MOOD))) for row in UNSEEN[task]}


@pytest.mark.parametrize(("of", "again"), [("frozen", 0), ("adapted", 5)])
def test_the_frozen_model_computes_each_context_once(of: str, again: int) -> None:
    model = _attached("exact", of)
    before = _losses(model)
    compute = Mock(wraps=model.parts["context"]._compute)  # type: ignore[attr-defined]
    model.parts["context"]._compute = compute  # type: ignore[attr-defined]
    assert torch.equal(_losses(model), before)
    assert compute.call_count == again  # of three tasks and two rows that are shown


@pytest.mark.parametrize("leave", ["exact", "masked"])
def test_where_each_label_is_shown_once_a_shown_row_sees_no_context(leave: str) -> None:
    model = _attached(leave, solved=_OneOfEach())
    found, whole = _losses(model), _losses(_attached(None))
    with model.parts["context"].disabled():
        without = _losses(model)
    for example, (task, _) in enumerate(TINY_ROWS):
        wanted = without if example in UNSEEN[task] else whole
        torch.testing.assert_close(found[example], wanted[example])
    model(batch_of(model.base)).loss.backward()


def _masked(model: AttachedModel, example: int, spans: Sequence[tuple[int, int]]) -> Tensor:
    """A row's loss with its context in its prompt, under a mask that hides parts from it."""
    plain = tiny_task_model("llama", _tasks(context=False))
    plain.family.max_length = 160
    batch = batch_of(plain, TINY_ROWS)
    assert batch.labels is not None
    real = batch.attention_mask[example].bool()
    ids, labels = batch.input_ids[example][real], batch.labels[example][real]
    task = int(batch.task_ids[example])
    held = len(model.parts["context"].tokens[task])  # type: ignore[attr-defined]
    visible = torch.ones(len(ids), len(ids)).tril().bool()
    for span in spans:
        visible[held:, slice(*span)] = False
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    logits = plain.backbone(input_ids=ids[None], attention_mask=mask[None, None]).logits[0]
    losses = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="none")
    return losses[labels[1:] != -100].mean()


def test_masked_positions_are_hidden_from_the_row_alone() -> None:
    model = _attached("masked")
    with torch.no_grad(), model.parts["lora"].disabled():
        found = _losses(model)
        spans = find_spans(_tasks()[0], model.base.family.context_tokens)
        for example, (task, _) in enumerate(TINY_ROWS):
            hidden = [spans[place] for place in UNSEEN[task].get(example, ())]
            torch.testing.assert_close(
                found[example], _masked(model, example, hidden), atol=1e-4, rtol=1e-4
            )


def test_what_a_row_knows_of_its_own_answer() -> None:
    """Exactly left out: nothing. Masked: what later demonstrations have read of it."""

    def move(leave: str | None, place: int) -> float:
        example = next(row for row, found in UNSEEN[0].items() if place in found)
        words = list(MOOD)
        was, now = ("bad", "good") if "bad" in words[place] else ("good", "bad")
        words[place] = words[place].replace(was, now)  # as many tokens
        changed, before = (_losses(_attached(leave, mood=mood)) for mood in (words, MOOD))
        return float((changed[example] - before[example]).abs())

    assert min(move(None, 1), move(None, 2)) > 1e-4
    assert max(move("exact", 1), move("exact", 2)) < 1e-6
    assert move("masked", 2) < 1e-6
    assert move("masked", 1) > 1e-4


@pytest.mark.parametrize("leave", ["exact", "masked"])
def test_gradients_reach_the_adapted_context_past_the_row(leave: str) -> None:
    model = _attached(leave, "adapted")
    model(batch_of(model.base)).loss.backward()
    assert all(p.grad is not None for group in model.groups() for p in group.parameters)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
def test_a_demonstrations_tokens_are_found(name: str) -> None:
    family = tiny_family(name)

    def spell(tokens: Sequence[int]) -> str:
        decoded: str = family.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return decoded

    tokenise = family.context_tokens if name != "t5" else family.tokenizer.encode
    task = _tasks()[0]
    tokens = tokenise("\n\n".join(["Answer.", *MOOD]))
    for text, (begin, end) in zip(MOOD, find_spans(task, tokenise), strict=True):
        assert text in spell(tokens[begin:end])
        rest = spell(tokens[:begin]) + spell(tokens[end:])
        for other in MOOD:
            assert (other in rest) is (other != text)


def test_what_it_needs() -> None:
    for context in ({"draw": "step"}, {"shots": 1}):
        with pytest.raises(ValidationError, match="leave_one_out needs draw: once"):
            ContextSettings.model_validate({"leave_one_out": "exact", **context})


def test_with_a_correction_it_can_only_be_masked() -> None:
    correction = {"trains": "values"}
    for context, dropout in (
        ({"leave_one_out": "exact"}, 0.0),
        ({"leave_one_out": "masked"}, 0.1),
    ):
        section = {"context": context, "correction": correction | {"dropout": dropout}}
        with pytest.raises(ValidationError, match="a correction trains what stands at each"):
            LoraContextSettings.model_validate(section)
    LoraContextSettings.model_validate(
        {
            "context": {"leave_one_out": "masked"},
            "correction": correction | {"dropout": 0.0},
        }
    )
