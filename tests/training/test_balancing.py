"""Balancing: gradients against slow references, weights that move, runs that resume."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from peml.errors import ConfigError
from peml.training.balancing import STRATEGIES, BalancingSettings, build_balancing
from peml.training.balancing.pcgrad import project_conflicts
from peml.training.balancing.running_mean import RunningMean
from peml.training.balancing.uncertainty import Uncertainty
from peml.training.checkpoints import CheckpointStore
from peml.training.optimizer import optimizer_state
from tests.training.test_loop import DROPOUT, restore, save
from tests.training.toy import Toy, toy

NAMES = ["mood", "closeness"]


def build(strategy: str, tasks: int = 2, **values: Any) -> Any:
    settings = BalancingSettings.model_validate({"strategy": strategy, **values})
    names = [*NAMES, *(f"task{n}" for n in range(tasks))][:tasks]
    return build_balancing(settings, names, seed=0)


def gradients(made: Toy) -> dict[str, torch.Tensor]:
    """What one step hands to the optimiser, before it is clipped."""
    kept: dict[str, torch.Tensor] = {}

    def look(*_: Any) -> None:
        for name, parameter in made.model.named_parameters():
            if parameter.grad is not None:
                kept[name] = parameter.grad.clone()

    made.optimizer.register_step_pre_hook(look)
    made.run(1)
    return kept


def slowly_projected(tasks: list[torch.Tensor], rng: np.random.Generator) -> torch.Tensor:
    """Algorithm 1 of arXiv 2001.06782 as it is printed, on whole gradients."""
    projected = [gradient.clone() for gradient in tasks]
    for i, gradient in enumerate(projected):
        for j in rng.permutation([k for k in range(len(tasks)) if k != i]):
            dot = float(gradient @ tasks[j])
            if dot < 0:
                gradient -= dot / float(tasks[j] @ tasks[j]) * tasks[j]
    return torch.stack(projected).sum(0)


@given(st.integers(1, 6), st.integers(2, 30), st.integers(0, 1000))
def test_projection_equals_the_loop_over_pairs(tasks: int, size: int, seed: int) -> None:
    drawn = torch.randn(
        tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    found = project_conflicts(drawn, np.random.default_rng(seed))
    expected = slowly_projected(list(drawn), np.random.default_rng(seed))
    if tasks == 1:
        expected = drawn[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_two_opposed_gradients_lose_what_opposes() -> None:
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    found = project_conflicts(torch.stack([first, second]), np.random.default_rng(0))
    # The second column is moved by one task alone: the conflict is in the first column.
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0]))
    both = torch.tensor([[1.0, 0.5], [-1.0, 1.0]])
    # g1 - (-0.5 / 2) g2 = (0.75, 0.75); g2 - (-0.5 / 1.25) g1 = (-0.6, 1.2)
    found = project_conflicts(both, np.random.default_rng(0))
    torch.testing.assert_close(found, torch.tensor([0.15, 1.95]))


def test_what_one_task_owns_changes_nothing_for_the_others() -> None:
    shared = torch.randn(3, 8, dtype=torch.float64)
    heads = torch.block_diag(*(100 * torch.randn(1, 4, dtype=torch.float64) for _ in range(3)))
    rng = np.random.default_rng
    alone = project_conflicts(shared, rng(1))
    found = project_conflicts(torch.cat([shared, heads], 1), rng(1))
    torch.testing.assert_close(found, torch.cat([alone, heads.sum(0)]))


def test_pcgrad_trains_with_the_projected_task_gradients() -> None:
    """Each task's gradient from a pass of its own rows, projected by the slow reference."""
    options: dict[str, Any] = {"clip": 1e9, "total": 1, "warmup": 0, "batches": {"rows": 24}}
    found = gradients(toy(balancing={"strategy": "pcgrad"}, **options))
    by_task = [
        gradients(toy(balancing={"weights": {name: 1e-30}}, **options)) for name in reversed(NAMES)
    ]
    names = [name for name in found if "heads" not in name]
    flat = [torch.cat([g[name].flatten() for name in names]).double() for g in by_task]
    assert float(flat[0] @ flat[1]) < 0, "the toy has no conflict: the test shows nothing"
    expected = slowly_projected(flat, np.random.default_rng((0, 0)))
    assert (expected - flat[0] - flat[1]).norm() > 0.005 * expected.norm()
    whole = torch.cat([found[name].flatten() for name in names]).double()
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-7)
    for name in set(found) - set(names):
        torch.testing.assert_close(found[name], by_task[0][name] + by_task[1][name])


def test_pcgrad_over_two_batches_equals_one_big_one() -> None:
    options: dict[str, Any] = {"clip": 1e9, "total": 1, "warmup": 0}
    settings = {"strategy": "pcgrad", "normalise": "example"}
    big = gradients(toy(balancing=settings, batches={"rows": 24}, **options))
    small = gradients(
        toy(balancing=settings, batches={"rows": 5, "pool": 9}, accumulation=5, **options)
    )
    for name, value in big.items():
        torch.testing.assert_close(small[name], value, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_an_auxiliary_loss_is_no_tasks_and_counts_in_full(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"clip": 1e9, "total": 1, "warmup": 0, "accumulation": 2}
    without, made = (toy(balancing={"strategy": strategy}, **options) for _ in range(2))
    part = next(iter(made.model.parts.values()))
    penalised = part.groups()[0].parameters[0]
    before = penalised.detach().clone()
    monkeypatch.setattr(part, "auxiliary_loss", lambda: 0.1 * penalised.square().sum())
    plain, found = gradients(without), gradients(made)
    name = next(n for n, p in made.model.named_parameters() if p is penalised)
    torch.testing.assert_close(found.pop(name) - plain.pop(name), 0.2 * before)
    torch.testing.assert_close(found, plain)


def test_pcgrad_leaves_alone_what_no_task_reaches() -> None:
    made = toy(balancing={"strategy": "pcgrad"})
    unreached = torch.nn.Parameter(torch.ones(3))
    made.optimizer.add_param_group({**made.optimizer.param_groups[0], "params": [unreached]})
    made.run(2)
    assert unreached.grad is None
    assert torch.equal(unreached, torch.ones(3))


@pytest.mark.parametrize("normalise", ["batch", "example"])
def test_batches_of_unlike_size_count_by_their_examples_or_alike(normalise: str) -> None:
    """Two dozen rows in five batches: 5, 5, 5, 5 and 4."""
    options: dict[str, Any] = {"clip": 1e9, "total": 1, "warmup": 0}
    balancing = {"normalise": normalise}
    big = gradients(toy(batches={"rows": 24}, **options))
    made = toy(balancing=balancing, batches={"rows": 5, "pool": 9}, accumulation=5, **options)
    small = gradients(made)
    differs = [not torch.allclose(small[n], v, rtol=1e-3, atol=1e-6) for n, v in big.items()]
    assert any(differs) is (normalise == "batch")
    if normalise == "example":
        assert not any(differs)


def test_a_weight_multiplies_a_tasks_gradient() -> None:
    options: dict[str, Any] = {"clip": 1e9, "total": 1, "warmup": 0, "batches": {"rows": 24}}
    plain, doubled = toy(**options), toy(balancing={"weights": {"mood": 2.0}}, **options)
    one, other = gradients(plain), gradients(doubled)
    rows = plain.model.base.heads.sizes[0]  # type: ignore[union-attr, index]
    head = next(name for name in one if name.endswith("heads.weight"))
    torch.testing.assert_close(other[head][:rows], 2 * one[head][:rows])
    torch.testing.assert_close(other[head][rows:], one[head][rows:])
    assert plain.recorder.steps[0].loss == doubled.recorder.steps[0].loss  # said unbalanced


def test_uncertainty_has_the_gradient_of_the_papers_loss() -> None:
    balancing = build("uncertainty", tasks=3, weights={"mood": 2.0})
    with torch.no_grad():
        balancing.log_variances.copy_(torch.tensor([0.5, -1.0, 0.0]))
    losses = torch.tensor([1.0, 3.0, 0.5], requires_grad=True)
    balancing.balance(losses, torch.tensor([0, 1, 0])).mean().backward()
    # d/ds (w e^-s l + w s / 2) = w (1/2 - e^-s l), a third of it an example.
    by_hand = [2 * ((0.5 - math.exp(-0.5) * 1.0) + (0.5 - math.exp(-0.5) * 0.5)) / 3]
    by_hand += [(0.5 - math.exp(1.0) * 3.0) / 3, 0.0]
    torch.testing.assert_close(balancing.log_variances.grad, torch.tensor(by_hand))
    expected = [2 * math.exp(-0.5) / 3, math.exp(1.0) / 3, 2 * math.exp(-0.5) / 3]
    torch.testing.assert_close(losses.grad, torch.tensor(expected))


def test_uncertainty_settles_at_half_the_inverse_loss_whatever_the_weights_are() -> None:
    balancing: Uncertainty = build("uncertainty", weights={"mood": 3.0})
    optimizer = torch.optim.Adam([balancing.log_variances], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        balancing.balance(torch.tensor([0.2, 2.0]), torch.tensor([0, 1])).sum().backward()
        optimizer.step()
    assert balancing.moving_weights()["mood"] == pytest.approx(3.0 / 0.4, rel=0.02)
    assert balancing.moving_weights()["closeness"] == pytest.approx(1 / 4.0, rel=0.02)


def test_uncertainty_learns_in_a_run_and_is_told() -> None:
    made = toy(balancing={"strategy": "uncertainty"}, learning_rates={"balancing": 0.1})
    made.run(6)
    weights = [record.task_weights for record in made.recorder.steps if record.task_weights]
    assert len(weights) == 2
    assert set(weights[0]) == set(NAMES)
    assert weights[0] != weights[1]
    assert made.recorder.steps[0].learning_rates["balancing"] > 0


def test_running_means_make_tasks_of_unlike_loss_count_alike() -> None:
    balancing: RunningMean = build("running-mean", decay=0.5)

    def update(losses: Tensor, tasks: Tensor) -> None:
        balancing._update(*balancing._measure(losses, tasks))

    losses, tasks = torch.tensor([1.0, 3.0, 0.5]), torch.tensor([0, 0, 1])
    assert balancing.balance(losses, tasks).tolist() == losses.tolist()  # nothing seen yet
    update(losses, tasks)
    # Means 2 and 0.5, their mean 1.25.
    assert balancing.moving_weights() == pytest.approx({"mood": 0.625, "closeness": 2.5})
    update(torch.tensor([1.0]), torch.tensor([0]))
    assert balancing.means.tolist() == [1.5, 0.5]  # a task that is absent keeps its mean
    update(torch.tensor([0.0] * 20), torch.tensor([1] * 20))
    for _ in range(40):
        update(torch.tensor([0.0]), torch.tensor([1]))
    assert balancing.moving_weights()["closeness"] == 10.0


@pytest.mark.parametrize("strategy", ["running-mean", "uncertainty", "pcgrad"])
@pytest.mark.parametrize("stopped", [2, 6])
def test_a_resumed_loop_ends_bit_identical(strategy: str, stopped: int, tmp_path: Path) -> None:
    def made() -> Toy:
        balancing = {"strategy": strategy, "normalise": "example"}
        return toy(config=DROPOUT, balancing=balancing, accumulation=2)

    whole = made()
    whole.run(9, may_stop=False)
    first = made()
    first.run(stopped, may_stop=False)
    first.loop.progress.evaluations_since_best = 0
    store = CheckpointStore(tmp_path, 1)
    save(store, first)
    second = made()
    restore(store, second)
    second.run(9, may_stop=False)
    for name, value in whole.weights().items():
        assert torch.equal(second.weights()[name], value), name
    moments = optimizer_state(second.optimizer, second.model)
    for name, moment in optimizer_state(whole.optimizer, whole.model).items():
        assert torch.equal(moments[name], moment), name
    assert whole.recorder.steps == first.recorder.steps + second.recorder.steps


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_trains_in_bf16_with_clipping(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"total": 40, "warmup": 0, "accumulation": 2, "clip": 0.5}
    rates = {"lora": 1e-2, "heads": 1e-2}
    made = toy(balancing={"strategy": strategy}, learning_rates=rates, **options)
    bf16 = partial(torch.autocast, "cpu", torch.bfloat16)
    monkeypatch.setattr(made.loop.accelerator, "autocast", bf16)
    made.run(40)
    losses = [record.loss for record in made.recorder.steps]
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])


def test_settings_name_exactly_the_strategies_there_are() -> None:
    named = BalancingSettings.model_fields["strategy"].annotation
    assert set(get_args(named)) == set(STRATEGIES)


@pytest.mark.parametrize("weight", [0, -0.5, float("nan")])
def test_a_weight_has_to_be_positive(weight: float) -> None:
    with pytest.raises(ValidationError, match=r"weights\.mood"):
        BalancingSettings.model_validate({"weights": {"mood": weight}})


def test_a_weight_for_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"training\.balancing\.weights.*'moood'.*'mood'"):
        build("fixed", weights={"moood": 2.0})
