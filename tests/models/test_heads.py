"""Heads of many tasks in one matrix, against one example at a time in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from peml.models.heads import TaskHeads
from peml.tasks import Task, TaskType
from tests.tasks.examples import choice, pair, score, sentiment

TASKS = (
    sentiment(),
    score(scale={"low": -1, "high": 3, "step": 1}),
    choice(),
    pair(labels=["a", "b", "c"]),
    score(name="other"),
)
HIDDEN = 6


def heads(tasks: Sequence[Task] = TASKS) -> TaskHeads:
    made = TaskHeads(tasks, HIDDEN, torch.Generator().manual_seed(1))
    with torch.no_grad():
        made.weight.mul_(40)  # far from zero, so that every term matters
        made.bias.normal_(generator=torch.Generator().manual_seed(2))
    return made


# (task, targets of the example's sequences)
MIXED = [
    (2, [0.0, 1.0, 0.0]),
    (0, [1.0]),
    (1, [2.5]),
    (3, [2.0]),
    (2, [1.0, 0.0]),
    (4, [0.0]),
    (0, [0.0]),
    (1, [-1.0]),
]


def inputs(mixed: Sequence[tuple[int, list[float]]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """pooled, targets, task ids, groups."""
    counts = torch.tensor([len(targets) for _, targets in mixed])
    pooled = torch.randn(int(counts.sum()), HIDDEN, generator=torch.Generator().manual_seed(3))
    targets = torch.tensor([t for _, each in mixed for t in each])
    tasks = torch.tensor([task for task, _ in mixed]).repeat_interleave(counts)
    return pooled, targets, tasks, torch.arange(len(mixed)).repeat_interleave(counts)


def reference(
    tasks: Sequence[Task],
    weight: Tensor,
    bias: Tensor,
    mixed: Sequence[tuple[int, list[float]]],
    pooled: Tensor,
) -> Tensor:
    """Loss of each example, one after the other, from the definition."""
    sizes = [len(task.labels) or 1 for task in tasks]
    losses, row = [], 0
    for task_id, targets in mixed:
        task, start = tasks[task_id], sum(sizes[:task_id])
        columns = slice(start, start + sizes[task_id])
        scores = [
            weight[columns] @ pooled[row + number] + bias[columns] for number in range(len(targets))
        ]
        row += len(targets)
        if task.type is TaskType.REGRESSION:
            assert task.scale is not None
            share = (targets[0] - task.scale.low) / (task.scale.high - task.scale.low)
            losses.append((scores[0][0] - (4 * share - 2)) ** 2)
        elif task.type is TaskType.MULTIPLE_CHOICE:
            options = torch.cat(scores)
            losses.append(-options.log_softmax(0)[targets.index(1.0)])
        else:
            losses.append(-scores[0].log_softmax(0)[int(targets[0])])
    return torch.stack(losses)


def test_mixed_batch_gives_the_losses_and_gradients_of_single_examples() -> None:
    module = heads()
    pooled, targets, task_ids, groups = inputs(MIXED)
    pooled.requires_grad_()
    losses = module.losses(module(pooled), targets, task_ids, groups, len(MIXED))
    losses.mean().backward()

    weight = module.weight.detach().double().requires_grad_()
    bias = module.bias.detach().double().requires_grad_()
    exact = pooled.detach().double().requires_grad_()
    expected = reference(TASKS, weight, bias, MIXED, exact)
    expected.mean().backward()

    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-6)
    for got, wanted in ((module.weight, weight), (module.bias, bias), (pooled, exact)):
        assert got.grad is not None
        assert wanted.grad is not None
        torch.testing.assert_close(got.grad.double(), wanted.grad, rtol=1e-5, atol=1e-5)


def test_single_column_tasks_of_one_option_cost_nothing() -> None:
    module = heads([choice()])
    losses = module.losses(
        module(torch.randn(1, HIDDEN)),
        torch.ones(1),
        torch.zeros(1, dtype=torch.long),
        torch.zeros(1, dtype=torch.long),
        1,
    )
    assert losses.item() == pytest.approx(0, abs=1e-6)


def test_absent_tasks_get_no_gradient() -> None:
    module = heads()
    pooled, targets, task_ids, groups = inputs([(1, [0.5]), (2, [1.0, 0.0])])
    module.losses(module(pooled), targets, task_ids, groups, 2).mean().backward()
    sizes = torch.tensor(module.sizes)
    owner = torch.arange(len(TASKS)).repeat_interleave(sizes)
    present = (owner == 1) | (owner == 2)
    assert module.weight.grad is not None
    assert (module.weight.grad[~present] == 0).all()
    assert (module.weight.grad[present] != 0).any(1).all()


def test_huge_scores_keep_losses_and_gradients_finite() -> None:
    module = heads()
    pooled, targets, task_ids, groups = inputs(MIXED)
    logits = (module(pooled).detach() * 1e4).requires_grad_()
    losses = module.losses(logits, targets, task_ids, groups, len(MIXED))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_scores_are_the_tasks_own_columns_on_its_own_scale() -> None:
    module = heads()
    logits = module(torch.randn(5, HIDDEN))
    assert torch.equal(module.scores(logits, 0), logits[:, 0:2])
    assert torch.equal(module.scores(logits, 2), logits[:, 3])
    assert torch.equal(module.scores(logits, 3), logits[:, 4:7])
    # The loss of a regression is zero exactly where its score is the target.
    score_1 = module.scores(logits, 1)
    ids = torch.ones(5, dtype=torch.long)
    losses = module.losses(logits, score_1, ids, torch.arange(5), 5)
    torch.testing.assert_close(losses, torch.zeros(5), rtol=0, atol=1e-8)


def test_weights_come_from_the_generator() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = heads().weight
        torch.manual_seed(1)
        assert torch.equal(first, heads().weight)
    assert set(heads().state_dict()) == {"weight", "bias"}


def test_a_task_takes_as_much_memory_among_many_as_among_few() -> None:
    def size(tasks: int) -> int:
        return sum(b.numel() * b.element_size() for b in heads(tasks * [sentiment()]).buffers())

    assert size(1000) == 10 * size(100)


def test_bfloat16_states_are_scored_in_the_heads_precision() -> None:
    module = heads()
    pooled = torch.randn(3, HIDDEN)
    assert module(pooled.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(
        module(pooled.bfloat16()),
        functional.linear(pooled, module.weight, module.bias),
        rtol=0.02,
        atol=0.05,
    )


def test_heads_of_the_same_meaning_are_taken_over_by_name() -> None:
    old = heads()
    tasks = (score(name="new"), choice(), sentiment(labels=["x", "y"]), score(name="other"))
    new = TaskHeads(tasks, HIDDEN, torch.Generator().manual_seed(9))
    before = new.weight.detach().clone()
    left = new.take_over(old)
    assert left == {"new": "a new task", "mood": "its type, labels or scale are others"}
    assert torch.equal(new.weight[1], old.weight[3])  # `ending`
    assert torch.equal(new.bias[4], old.bias[7])  # `other`
    assert torch.equal(new.weight[[0, 2, 3]], before[[0, 2, 3]])
