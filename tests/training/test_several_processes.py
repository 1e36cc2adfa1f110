"""Several processes take the steps that one takes with as many batches a step."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from peml.training.balancing import STRATEGIES
from tests.training.toy import Toy, toy
from tests.worlds import together, worlds

_STEPS = 5  # of six batches each, thirty of which are six epochs and a part
_SETTINGS: dict[str, Any] = {
    "batches": {"rows": 5, "pool": 9},
    "warmup": 0,
    "total": _STEPS,
    "accumulation": 6,
    "evaluate_every": 2,
}


def _run(made: Toy) -> Toy:
    made.run(_STEPS)
    return made


def _several(size: int, **settings: Any) -> list[Toy]:
    toys = [toy(world=world, **_SETTINGS, **settings) for world in worlds(size)]
    return together([partial(_run, made) for made in toys])


@pytest.mark.parametrize("normalise", ["batch", "example"])
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("size", [2, 3])
def test_they_take_the_same_steps(size: int, strategy: str, normalise: str) -> None:
    balancing = {"strategy": strategy, "normalise": normalise, "weights": {"mood": 3.0}}
    whole = _run(toy(balancing=balancing, **_SETTINGS))
    for made in _several(size, balancing=balancing):
        for name, value in whole.weights().items():
            torch.testing.assert_close(made.weights()[name], value, rtol=1e-5, atol=1e-6)
        for one, other in zip(whole.recorder.steps, made.recorder.steps, strict=True):
            numbers = {"loss", "gradient_norm", "task_losses", "task_weights"}
            assert one.model_dump(exclude=numbers) == other.model_dump(exclude=numbers)
            for name in numbers:
                assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-5), name
        assert made.recorder.evaluations == whole.recorder.evaluations
        assert made.stream.state_dict() == whole.stream.state_dict()


def test_a_step_exchanges_little_more_than_the_gradients() -> None:
    """An exchange around a ring sends less than twice what is summed."""
    made, _ = _several(2)
    trainable = sum(p.numel() for group in made.model.groups() for p in group.parameters)
    summed: int = made.loop.world.table.summed  # type: ignore[attr-defined]
    assert summed / _STEPS <= 1.1 * trainable * 4


def test_a_parameter_that_no_process_has_reached_gets_no_gradient() -> None:
    """Else weight decay would move it, and its moments would be counted."""
    ranks = worlds(2)
    parameters = [[torch.zeros(2, requires_grad=True) for _ in range(3)] for _ in ranks]
    parameters[0][0].grad = torch.tensor([1.0, 2.0])
    parameters[0][1].grad = torch.tensor([1.0, 2.0])
    parameters[1][1].grad = torch.tensor([3.0, 4.0])
    together(
        [partial(world.sum_gradients, own) for world, own in zip(ranks, parameters, strict=True)]
    )
    for own in parameters:
        kept = [None if p.grad is None else p.grad.tolist() for p in own]
        assert kept == [[1, 2], [4, 6], None]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_was_dealt_out_comes_back_in_its_order(size: int) -> None:
    """Sums are then those of one process, to the last bit."""
    dealt = list(range(7))
    found = together([partial(world.interleave, dealt[world.part]) for world in worlds(size)])
    assert found == [dealt] * size
