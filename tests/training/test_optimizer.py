"""Parameter groups, their rates, and moments that survive a save bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peml.errors import ConfigError
from peml.files import read_tensors, write_tensors
from peml.methods.base import ParameterGroup
from peml.training.optimizer import (
    SPAN,
    build_optimizer,
    learning_rate_factor,
    load_optimizer_state,
    optimizer_state,
    set_learning_rates,
)
from peml.training.settings import TrainingSettings


def settings(**values: Any) -> TrainingSettings:
    return TrainingSettings.model_validate(values)


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, width)
        self.second = nn.Linear(width, 2)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def groups(self) -> list[ParameterGroup]:
        slow = {"constant_rate": True, "betas": (0.5, 0.999), "weight_decay": 0.0}
        return [
            ParameterGroup("lora", list(self.first.parameters()), 1e-2),
            ParameterGroup("architecture", list(self.second.parameters()), 3e-2, slow),
        ]


def train(net: Net, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        net.second(net.first(x).tanh()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_the_common_factor_and_the_schedule_leave_constant_groups_alone() -> None:
    changed = settings(learning_rate_factor=4.0, schedule="linear", warmup=0.5)
    optimizer = build_optimizer(Net().groups(), changed)
    assert [group["lr"] for group in optimizer.param_groups] == [4e-2, 3e-2]
    rates = [set_learning_rates(optimizer, step, 10, changed) for step in range(10)]
    assert {rate["architecture"] for rate in rates} == {3e-2}
    assert len({rate["lora"] for rate in rates}) > 3


def test_groups_keep_their_own_options() -> None:
    optimizer = build_optimizer(Net().groups(), settings(weight_decay=0.1))
    lora, architecture = optimizer.param_groups
    assert (lora["name"], lora["lr"], lora["weight_decay"]) == ("lora", 1e-2, 0.1)
    assert (architecture["lr"], architecture["weight_decay"]) == (3e-2, 0.0)
    assert architecture["betas"] == (0.5, 0.999)


def test_given_rates_replace_the_methods() -> None:
    chosen = settings(learning_rates={"lora": 0.5})
    optimizer = build_optimizer(Net().groups(), chosen)
    assert [group["peak"] for group in optimizer.param_groups] == [0.5, 3e-2]


def test_a_rate_for_an_unknown_group_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'lorra'") as caught:
        build_optimizer(Net().groups(), settings(learning_rates={"lorra": 0.5}))
    message = str(caught.value)
    assert "Did you mean 'lora'?" in message
    assert "lora, architecture" in message


def test_constant_groups_neither_warm_up_nor_decay() -> None:
    chosen = settings(warmup=0.5, schedule="linear")
    optimizer = build_optimizer(Net().groups(), chosen)
    rates = [set_learning_rates(optimizer, step, 10, chosen) for step in range(10)]
    assert [rate["architecture"] for rate in rates] == [3e-2] * 10
    assert [rate["lora"] / 1e-2 for rate in rates] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    )
    assert optimizer.param_groups[0]["lr"] == rates[-1]["lora"]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_span_all_steps(schedule: str, expected: list[float]) -> None:
    chosen = settings(warmup=0, schedule=schedule)
    found = [learning_rate_factor(step, 4, chosen) for step in range(4)]
    assert found == pytest.approx(expected, abs=1e-6)


def test_moments_survive_a_file_bit_for_bit(tmp_path: Path) -> None:
    whole, first = Net(), Net()
    for net, steps in ((whole, range(8)), (first, range(5))):
        optimizer = build_optimizer(net.groups(), settings())
        train(net, optimizer, steps)
    write_tensors(tmp_path / "o.safetensors", optimizer_state(optimizer, first))

    second = Net()
    second.load_state_dict(first.state_dict())
    resumed = build_optimizer(second.groups(), settings())
    load_optimizer_state(resumed, second, read_tensors(tmp_path / "o.safetensors"))
    train(second, resumed, range(5, 8))
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_names_say_whose_moment_it_is() -> None:
    net = Net()
    optimizer = build_optimizer(net.groups(), settings())
    train(net, optimizer, range(1))
    trained = ("first.weight", "first.bias", "second.weight", "second.bias")
    assert set(optimizer_state(optimizer, net)) == {
        f"{name}/{moment}" for name in trained for moment in ("step", "exp_avg", "exp_avg_sq")
    }


def test_what_has_no_fitting_moments_starts_afresh() -> None:
    """After the search the decisions are gone and the rest keeps its moments."""
    before = Net()
    optimizer = build_optimizer(before.groups(), settings())
    train(before, optimizer, range(3))
    after = Net(width=5)
    after.first = nn.Linear(4, 5)
    state = optimizer_state(optimizer, before)
    fresh = build_optimizer(after.groups(), settings())
    load_optimizer_state(fresh, after, state)
    assert after.first.weight not in fresh.state  # another shape
    assert torch.equal(fresh.state[after.second.bias]["exp_avg"], state["second.bias/exp_avg"])
    assert fresh.state[after.second.bias]["step"].item() == 3
    train(after, fresh, range(1))
    assert fresh.state[after.first.weight]["step"].item() == 1


def test_loaded_moments_are_copies() -> None:
    net = Net()
    optimizer = build_optimizer(net.groups(), settings())
    train(net, optimizer, range(1))
    kept = {name: value.clone() for name, value in optimizer_state(optimizer, net).items()}
    other = build_optimizer(net.groups(), settings())
    load_optimizer_state(other, net, kept)
    before = {name: value.clone() for name, value in kept.items()}
    train(net, other, range(2))
    assert all(torch.equal(kept[name], value) for name, value in before.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_moments_from_a_file_go_on_on_a_gpu() -> None:
    """The fused optimiser wants its step counters on the parameters' device."""
    net = Net()
    optimizer = build_optimizer(net.groups(), settings())
    train(net, optimizer, range(1))
    state = optimizer_state(optimizer, net)
    moved = net.cuda()
    resumed = build_optimizer(moved.groups(), settings())
    load_optimizer_state(resumed, moved, state)
    moved.second(moved.first(torch.ones(2, 4, device="cuda"))).sum().backward()
    resumed.step()
    assert resumed.state[moved.first.weight]["step"].item() == 2


def test_a_group_may_warm_up_longer_than_the_others() -> None:
    settings = TrainingSettings(warmup=0.1, schedule="constant")
    groups = [
        ParameterGroup(name, [nn.Parameter(torch.zeros(1))], 1.0, options)
        for name, options in (("slow", {"warmup": 0.5}), ("plain", {}), ("cold", {"warmup": 0.0}))
    ]
    optimizer = build_optimizer(groups, settings)
    rates = [set_learning_rates(optimizer, step, 10, settings) for step in range(10)]
    assert [rate["plain"] for rate in rates] == [1.0] * 10
    assert [rate["cold"] for rate in rates] == [1.0] * 10
    assert [rate["slow"] for rate in rates] == pytest.approx([0.2, 0.4, 0.6, 0.8, *[1.0] * 6])


def test_a_group_of_some_steps_has_their_schedule_and_never_a_negative_rate() -> None:
    settings = TrainingSettings(warmup=0, schedule="linear")
    optimizer = build_optimizer(
        [ParameterGroup("late", [nn.Parameter(torch.zeros(1))], 1.0)], settings
    )
    optimizer.param_groups[0][SPAN] = (2, 6)
    rates = [set_learning_rates(optimizer, step, 8, settings)["late"] for step in range(8)]
    assert rates == [1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
