"""The loop: what moves, when it evaluates and stops, and that a resumed one is the same."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from peml.errors import TrainingError
from peml.models import ModelSettings
from peml.training.checkpoints import Checkpoint, CheckpointStore, load_random_state, random_state
from peml.training.loop import Progress
from peml.training.optimizer import load_optimizer_state, optimizer_state
from tests.training.toy import Toy, toy

DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def save(store: CheckpointStore, made: Toy) -> None:
    progress = made.loop.progress
    state = {"progress": dataclasses.asdict(progress), "stream": made.stream.state_dict()}
    moments = optimizer_state(made.optimizer, made.model)
    store.save(progress.step, "train", Checkpoint(made.weights(), moments, random_state(), state))


def restore(store: CheckpointStore, made: Toy) -> None:
    found = store.load_latest()
    assert found is not None
    made.loop.progress = Progress(**found.state["progress"])
    made.model.load_trainable_state(found.trainable)
    load_optimizer_state(made.optimizer, made.model, found.optimizer)
    made.stream.load_state_dict(found.state["stream"])
    load_random_state(found.extra)


@pytest.mark.parametrize("stopped", [1, 4, 6, 9])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_loop_ends_bit_identical(stopped: int, accumulation: int, tmp_path: Path) -> None:
    """Twelve rows of two tasks are six batches an epoch: most stops are in mid-epoch."""

    def made() -> Toy:
        return toy(config=DROPOUT, lora={"dropout": 0.1}, accumulation=accumulation)

    whole = made()
    whole.run(12)
    first = made()
    first.run(stopped, may_stop=False)
    # Ending a phase evaluates; an uninterrupted run has no such evaluation there.
    first.loop.progress = dataclasses.replace(
        first.loop.progress, best=None, best_step=0, evaluations_since_best=0
    )
    store = CheckpointStore(tmp_path, 1)
    save(store, first)
    torch.manual_seed(12345)
    second = made()
    torch.rand(7)
    restore(store, second)
    second.run(12)
    for name, value in whole.weights().items():
        assert torch.equal(second.weights()[name], value), name
    for name, moment in optimizer_state(whole.optimizer, whole.model).items():
        assert torch.equal(optimizer_state(second.optimizer, second.model)[name], moment), name
    assert whole.recorder.steps == first.recorder.steps + second.recorder.steps


def test_what_should_move_moves_and_nothing_else() -> None:
    made = toy()
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.run(6)
    trained = {name for name, p in made.model.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in trained)
    assert any("heads" in name for name in trained)
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, before[name]) is (name not in trained), name


def test_training_lowers_the_loss() -> None:
    made = toy(total=60, learning_rates={"lora": 1e-2, "heads": 1e-2}, warmup=0)
    made.run(60)
    losses = [record.loss for record in made.recorder.steps]
    assert sum(losses[-6:]) < 0.6 * sum(losses[:6])


def test_accumulation_equals_one_big_batch() -> None:
    """Batches of equal size: the mean of means is the mean of all."""
    small = toy(batches={"rows": 4, "pool": 999}, accumulation=6, total=3)
    big = toy(batches={"rows": 24, "pool": 999}, total=3)
    small.run(3)
    big.run(3)
    for name, value in big.weights().items():
        torch.testing.assert_close(small.weights()[name], value, rtol=1e-3, atol=2e-5)
    for one, other in zip(small.recorder.steps, big.recorder.steps, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-3)
        assert one.tokens == other.tokens


def _clipped(**training: Any) -> tuple[dict[str, float], float]:
    """Norms of a step's gradients by group as the optimiser gets them, and the recorded norm."""
    made = toy(total=1, warmup=0, **training)
    norms: dict[str, float] = {}

    def look(*_: Any) -> None:
        for group in made.optimizer.param_groups:
            grads = [p.grad for p in group["params"] if p.grad is not None]
            norms[group["name"]] = math.sqrt(sum(float(g.square().sum()) for g in grads))

    made.optimizer.register_step_pre_hook(look)
    made.run(1)
    return norms, made.recorder.steps[0].gradient_norm


def test_gradients_are_clipped_together() -> None:
    norms, recorded = _clipped(clip=1e-3)
    assert math.hypot(*norms.values()) == pytest.approx(1e-3, rel=1e-2)
    assert recorded > 0.01  # the record shows the norm before


def test_each_groups_gradient_can_be_clipped_by_itself() -> None:
    whole, before = _clipped(clip=1e9)
    small, large = sorted(whole, key=whole.__getitem__)
    limit = (whole[small] + whole[large]) / 2
    norms, recorded = _clipped(clip=limit, clip_by="group")
    assert norms[small] == pytest.approx(whole[small])
    assert norms[large] == pytest.approx(limit, rel=1e-2)
    assert recorded == pytest.approx(before)


def test_records_tell_rates_epochs_tokens_and_task_losses() -> None:
    made = toy()
    made.run(12)
    steps = made.recorder.steps
    assert [record.step for record in steps] == list(range(1, 13))
    assert all(a.epoch < b.epoch for a, b in pairwise(steps))
    assert steps[5].epoch == pytest.approx(1)
    assert steps[-1].epoch == pytest.approx(2)
    assert sum(record.tokens for record in steps[:6]) == made.stream.tokens(0)
    assert made.loop.progress.tokens == made.stream.tokens(0) + made.stream.tokens(1)
    assert steps[0].learning_rates == {"lora": pytest.approx(2.5e-4), "heads": pytest.approx(5e-4)}
    for record in steps:
        assert set(record.task_losses) == ({"mood", "closeness"} if record.step % 3 == 0 else set())
    # Four rows per batch, three batches: their mean is the mean over all twelve examples.
    assert made.loop.progress.losses == {}


def test_task_losses_are_means_over_examples() -> None:
    made = toy(log_every=6)
    made.run(6)
    (record,) = [r for r in made.recorder.steps if r.task_losses]
    of_all = sum(r.loss for r in made.recorder.steps) / 6
    assert sum(record.task_losses.values()) / 2 == pytest.approx(of_all, rel=1e-5)


def test_records_tell_the_rows_drawn_of_each_task() -> None:
    made = toy()
    made.run(6)  # an epoch: every row once
    drawn = [record.task_rows for record in made.recorder.steps]
    assert [bool(rows) for rows in drawn] == [False, False, True] * 2
    for place, name in enumerate(("mood", "closeness")):
        size = len(made.stream.splits[place])
        assert sum(rows.get(name, 0) for rows in drawn) == size


def test_evaluates_once_an_epoch_and_at_the_end() -> None:
    made = toy()
    made.run(8)
    assert [e.step for e in made.recorder.evaluations] == [6, 8]
    assert made.recorder.checkpoints == [6, 8]


def test_evaluates_and_saves_when_asked() -> None:
    made = toy(evaluate_every=4, checkpoint_every=3)
    made.run(9)
    assert [e.step for e in made.recorder.evaluations] == [4, 8, 9]
    assert made.recorder.checkpoints == [3, 4, 6, 8, 9]


def test_the_best_mean_is_marked() -> None:
    values = iter([0.1, 0.4, 0.4, 0.2, 0.5])
    made = toy(evaluate_every=1, evaluate=lambda: {"mood": next(values), "closeness": 0.0})
    made.run(5)
    assert [e.is_best for e in made.recorder.evaluations] == [True, True, False, False, True]
    assert [e.mean for e in made.recorder.evaluations] == [0.05, 0.2, 0.2, 0.1, 0.25]
    assert (made.loop.progress.best, made.loop.progress.best_step) == (0.25, 5)


def test_patience_ends_a_phase_that_may_stop() -> None:
    values = [0.3, 0.2, 0.25, 0.9]

    def made(**options: Any) -> Toy:
        left = iter([*values, *[0.0] * 9])
        return toy(evaluate_every=1, evaluate=lambda: {"mood": next(left)}, **options)

    patient = made(patience=2)
    patient.run(10)
    assert patient.loop.progress.step == 3
    assert patient.recorder.checkpoints == [1, 2, 3]  # the last one says that it is over
    patient.run(10)  # resumed after that checkpoint: nothing happens
    assert patient.loop.progress.step == 3
    searching = made(patience=2)
    searching.run(4, may_stop=False)
    assert searching.loop.progress.step == 4
    searching.run(10)  # the best was the last: two more
    assert searching.loop.progress.step == 6
    stubborn = made()
    stubborn.run(10)
    assert stubborn.loop.progress.step == 10


def test_before_step_is_told_every_step_before_its_forward_pass() -> None:
    seen: list[tuple[int, int]] = []
    made = toy()
    made.run(3, before_step=lambda step: seen.append((step, len(made.recorder.steps))))
    assert seen == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("poison", "shown"), [(math.nan, "loss nan"), (math.inf, "loss"), (1e3, "loss")]
)
def test_a_diverging_loss_is_refused_with_the_tasks_and_changes_nothing(
    poison: float, shown: str
) -> None:
    made = toy()
    made.run(2, may_stop=False)
    heads: Any = made.model.base.heads
    with torch.no_grad():
        heads.bias[2] = poison  # the regression's column
    before = made.weights()
    with pytest.raises(TrainingError, match="diverged at step 3") as caught:
        made.run(12)
    message = str(caught.value)
    assert shown in message
    assert "closeness" in message
    assert "training.learning_rates" in message
    assert made.loop.progress.step == 2
    for name, value in made.weights().items():
        assert torch.equal(value.nan_to_num(7), before[name].nan_to_num(7)), name


def test_the_limit_of_an_explosion_can_be_set() -> None:
    with pytest.raises(TrainingError, match=r"at most 1e-06"):
        toy(explode_at=1e-6).run(1)


@pytest.mark.parametrize("evaluate_every", [2, 100])
def test_what_the_last_step_has_ruined_is_neither_scored_nor_kept(evaluate_every: int) -> None:
    made = toy(evaluate_every=evaluate_every, checkpoint_every=1)
    after: Any = made.model.after_step

    def ruin(step: int) -> None:
        after(step)
        if step == 3:
            with torch.no_grad():
                made.model.groups()[0].parameters[0].view(-1)[0] = math.nan

    made.model.after_step = ruin  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="diverged at step 4: after it, weights of lora"):
        made.run(4)
    assert made.recorder.checkpoints == [1, 2, 3]
    assert all(evaluation.step < 4 for evaluation in made.recorder.evaluations)


@pytest.mark.parametrize(("dtype", "advice"), [("float16", "set model.dtype to"), ("float32", "")])
def test_before_the_first_step_no_learning_rate_is_to_blame(dtype: Any, advice: str) -> None:
    made = toy()
    made.model.base.settings = ModelSettings(dtype=dtype)
    embedded: Any = made.model.base.backbone.get_input_embeddings()
    with torch.no_grad():
        embedded.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match="the frozen model itself gives nan") as caught:
        made.run(1)
    assert "learning_rates" not in str(caught.value)
    assert "model.dtype" in caught.value.action
    assert advice in caught.value.action
    with pytest.raises(TrainingError, match="starts above") as caught:
        toy(explode_at=1e-6).run(1)
    assert "model.dtype" not in str(caught.value)
