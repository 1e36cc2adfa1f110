"""Contexts whose solved rows every training step draws anew."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from peml.config.loading import load_config
from peml.data import TaskBatch
from peml.data.solved import SolvedRows
from peml.errors import ConfigError, DataError, ModelError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.context.part import ContextPart
from peml.run.preparation import Prepared, prepare
from peml.run.training import attach
from peml.testing import tiny_task_model
from tests.e2e.toy import toy_config, write_suite

pytestmark = pytest.mark.e2e

_CPU = torch.device("cpu")


def _prepared(
    distinct_toys: Path, *overrides: str, family: str = "causal", **context: Any
) -> Prepared:
    method = {"name": "lora+context", "lora": {"r": 2}}
    method["context"] = {"shots": 3, "draw": "step", **context}
    return prepare(load_config(toy_config(distinct_toys, family, method), list(overrides)))


def _solved(prepared: Prepared) -> SolvedRows:
    return SolvedRows(prepared.loaded.data, prepared.stream, 1)


def _batch(prepared: Prepared) -> TaskBatch:
    return prepared.stream.fetch(prepared.stream.plan(0)[0])


def _held(model: AttachedModel, batch: TaskBatch | None, seed: int = 0) -> dict[int, Tensor]:
    """The last layer's keys and values in front of a batch's rows."""
    torch.manual_seed(seed)
    model.prepare(batch)
    part = model.parts["context"]
    assert isinstance(part, ContextPart)
    assert part.injection.contexts is not None
    pairs = {task: held.layer(-1) for task, held in part.injection.contexts.by_task.items()}
    return {task: torch.stack(pair) for task, pair in pairs.items() if pair is not None}


def _differ(some: dict[int, Tensor], others: dict[int, Tensor]) -> bool:
    same = [some[t].shape == others[t].shape and bool((some[t] == others[t]).all()) for t in some]
    return not any(same)


def _raise(model: AttachedModel) -> None:
    with torch.no_grad():
        for parameter in (p for group in model.groups() for p in group.parameters):
            parameter.add_(0.1)


def test_rows_are_drawn_without_those_of_the_batch(distinct_toys: Path) -> None:
    prepared = _prepared(distinct_toys)
    solved, count = _solved(prepared), len(prepared.train[0])
    whole = set(range(count))
    kept = {1, 4, 7}
    one = [solved.draw(0, 1, whole - {number})[0] for number in sorted(kept)]
    assert sorted(solved.draw(0, 3, whole - kept)) == sorted(one)
    assert one[0] != one[1] or one[1] != one[2]
    with pytest.raises(DataError, match=f"has {count} train rows") as caught:
        solved.draw(0, 4, whole - kept)
    assert "method.context.shots" in caught.value.action


@pytest.mark.parametrize("each", ["step", "epoch"])
def test_balanced_draws_show_labels_alike_whatever_the_batch_has(
    distinct_toys: Path, each: Literal["step", "epoch"]
) -> None:
    prepared = _prepared(distinct_toys)
    item, solved = prepared.loaded.data[0], _solved(prepared)
    labels = item.train.column(item.task.columns.label)
    words = item.task.labels
    assert len(words) == len(set(labels)) == 2
    torch.manual_seed(0)

    def shown(*without: int, balanced: bool) -> list[int]:
        texts = solved.draw(0, 4, without, each=each, balanced=balanced)
        assert len(set(texts)) == 4
        return sorted(sum(text.endswith(word) for text in texts) for word in words)

    for label in set(labels):
        rows = [row for row, found in enumerate(labels) if found == label]
        for kept in range(2, len(rows) + 1):
            assert shown(*rows[kept:], balanced=True) == [2, 2]
        assert shown(*rows[1:], balanced=True) == [1, 3]  # no second one is left
    drawn = {tuple(shown(*some, balanced=False)) for some in ((), (0,), (1,), (2,), (3,), (0, 1))}
    assert drawn - {(2, 2)}


@pytest.mark.parametrize(("choose", "balanced"), [("balanced", True), ("first", False)])
def test_contexts_are_drawn_as_their_fixed_rows_are_chosen(
    distinct_toys: Path, monkeypatch: pytest.MonkeyPatch, choose: str, balanced: bool
) -> None:
    prepared = _prepared(distinct_toys, choose=choose)
    model, drawn = attach(prepared, _CPU, None).train(), []

    def draw(*arguments: Any, **how: Any) -> list[str]:
        drawn.append(how["balanced"])
        return plain(*arguments, **how)

    plain = SolvedRows.draw
    monkeypatch.setattr(SolvedRows, "draw", draw)
    model.prepare(_batch(prepared))
    assert drawn
    assert set(drawn) == {balanced}


def test_draws_follow_torchs_generator(distinct_toys: Path) -> None:
    solved = _solved(_prepared(distinct_toys))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = solved.draw(0, 6, ()), solved.draw(0, 6, ())
    torch.set_rng_state(state)
    assert [solved.draw(0, 6, ()), solved.draw(0, 6, ())] == [first, second]
    assert first != second


def test_an_epoch_shows_the_same_rows_but_for_those_of_the_batch(distinct_toys: Path) -> None:
    prepared = _prepared(distinct_toys)
    solved, stream, rows = _solved(prepared), prepared.stream, len(prepared.train[0])

    def draw(*without: int, count: int = 3, of: SolvedRows = solved) -> tuple[str, ...]:
        return tuple(of.draw(0, count, without, each="epoch"))

    order = draw(count=rows)
    torch.manual_seed(1)
    assert draw() == order[:3]
    instead = [order[:place] + order[place + 1 : 4] for place in range(3)]
    wanted = Counter([*instead, *[order[:3]] * (rows - 3)])
    assert Counter(draw(number) for number in range(rows)) == wanted
    stream.load_state_dict({"epoch": 1, "batch": 2})
    assert draw(count=rows) != order
    stream.load_state_dict({"epoch": 0, "batch": 3})  # as a run that is resumed
    assert draw(count=rows, of=_solved(prepared)) == order


@pytest.mark.parametrize("of", ["frozen", "adapted"])
def test_every_training_step_shows_others_and_evaluation_the_fixed_ones(
    distinct_toys: Path, of: str
) -> None:
    prepared = _prepared(distinct_toys, of=of)
    batch = _batch(prepared)
    model = attach(prepared, _CPU, None)
    fixed = _held(model.eval(), batch)
    once = attach(_prepared(distinct_toys, of=of, draw="once"), _CPU, None).eval()
    assert all(bool((fixed[t] == held).all()) for t, held in _held(once, batch).items())
    first, second = _held(model.train(), batch, 1), _held(model, batch, 2)
    assert _differ(first, second)
    assert _differ(first, fixed)
    assert not _differ(first, _held(model, batch, 1))
    assert all(
        bool((fixed[task] == held).all()) for task, held in _held(model.eval(), batch).items()
    )
    saved = model.static_contexts()
    assert len(saved) == len(prepared.tasks)


def test_drawn_contexts_are_of_the_frozen_model_or_of_the_adapted_one(distinct_toys: Path) -> None:
    for of in ("frozen", "adapted"):
        prepared = _prepared(distinct_toys, of=of)
        batch = _batch(prepared)
        model = attach(prepared, _CPU, None).train()
        before = _held(model, batch)
        _raise(model)
        after = _held(model, batch)
        assert _differ(before, after) is (of == "adapted")
        assert all(held.requires_grad is (of == "adapted") for held in after.values())
        model(batch).loss.backward()
        lora = [p for group in model.groups() for p in group.parameters]
        assert all(p.requires_grad and p.grad is not None for p in lora)


def test_what_an_epoch_shows_is_computed_once(
    distinct_toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = _prepared(distinct_toys, draw="epoch")
    model, batch = attach(prepared, _CPU, None).train(), _batch(prepared)
    first = _held(model, batch, 1)
    monkeypatch.setattr(ContextPart, "_compute", None)
    again = _held(model, batch, 2)
    assert all(first[task] is not again[task] for task in first)
    assert all(bool((first[task] == again[task]).all()) for task in first)
    monkeypatch.undo()
    prepared.stream.load_state_dict({"epoch": 1, "batch": 0})
    assert _differ(first, _held(model, batch, 1))
    other = _prepared(distinct_toys, draw="epoch", of="adapted")
    assert not _differ(first, _held(attach(other, _CPU, None).train(), _batch(other)))


def test_drawn_contexts_are_the_text_that_the_task_would_show(distinct_toys: Path) -> None:
    """The fixed rows, drawn, give the fixed context."""
    prepared = _prepared(distinct_toys)
    model = attach(prepared, _CPU, None)
    batch = _batch(prepared)
    fixed = _held(model.eval(), batch)

    class Fixed(SolvedRows):
        def draw(self, task: int, count: int, without: Any, **how: Any) -> list[str]:
            return [str(text) for text in prepared.tasks[task].shots.examples]

    part = model.parts["context"]
    assert isinstance(part, ContextPart)
    fixed_rows = Fixed(prepared.loaded.data, prepared.stream, 1)
    part.use_rows(fixed_rows, without_update=model.parts["lora"].disabled)
    drawn = _held(model.train(), batch)
    assert drawn.keys() == fixed.keys()
    for task, held in drawn.items():
        torch.testing.assert_close(held, fixed[task])


def test_too_few_train_rows_are_refused_before_training(distinct_toys: Path) -> None:
    prepared = _prepared(distinct_toys, "tasks.rows=8")  # three are the fixed ones, five are left
    with pytest.raises(DataError, match="'mood' has 5 train rows, but a batch has"):
        attach(prepared, _CPU, None)
    attach(_prepared(distinct_toys, "tasks.rows=8", draw="once"), _CPU, None)


@pytest.mark.parametrize("family", ["causal", "encoder"])
def test_the_longest_rows_have_to_fit_the_positions(tmp_path: Path, family: str) -> None:
    write_suite(tmp_path, distinct=True)
    toy_config(tmp_path, family)
    path = tmp_path / "data" / "mood" / "train.jsonl"
    long = [json.dumps({"sentence": "the dog is good " * 20, "label": 1})] * 5
    path.write_text("\n".join([path.read_text().rstrip(), *long]) + "\n")
    for draw in ("once", "step"):
        prepared = _prepared(tmp_path, family=family, draw=draw)
        prepared.family.positions = 150
        if draw == "once":
            attach(prepared, _CPU, None)
        else:
            with pytest.raises(ModelError, match="150 positions"):
                attach(prepared, _CPU, None)


def test_without_rows_to_draw_it_is_refused(distinct_toys: Path) -> None:
    prepared = _prepared(distinct_toys)
    model = tiny_task_model("llama", prepared.tasks[:3])
    with pytest.raises(ModelError, match="there are no train rows"):
        prepared.method.attach(model, AttachContext(seed=0, calibrate=lambda: None))
    with pytest.raises(ConfigError, match="draw: step needs shots"):
        _prepared(distinct_toys, shots=0, instruction=True)
