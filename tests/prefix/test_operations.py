"""Every operation against its contract, and what each one is meant to compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from peml.errors import ConfigError
from peml.prefix.operations.operation import Operation, zero_linear
from peml.prefix.operations.registry import (
    DEFAULT_OPERATIONS,
    OPERATIONS,
    SKIP,
    list_operations,
    make_operation,
)
from peml.prefix.settings import PrefixSettings
from peml.prefix.shape import PrefixShape
from peml.testing.operations import OperationSuite
from tests.packages import added


class TestSkip(OperationSuite):
    name = SKIP
    learnt = False


class TestLinear(OperationSuite):
    name = "linear"


class TestMlpTanh(OperationSuite):
    name = "mlp-tanh"


class TestMlpGelu(OperationSuite):
    name = "mlp-gelu"


class TestGatedMlp(OperationSuite):
    name = "gated-mlp"


class TestBottleneckMlp(OperationSuite):
    name = "bottleneck-mlp"


class TestConv(OperationSuite):
    name = "conv"


class TestSelfAttention(OperationSuite):
    name = "self-attention"


class TestMinGru(OperationSuite):
    name = "min-gru"


class TestGru(OperationSuite):
    name = "gru"


def test_every_operation_has_a_suite() -> None:
    suites = {value.name for key, value in globals().items() if key.startswith("Test")}
    assert suites == set(list_operations())
    assert set(DEFAULT_OPERATIONS) <= suites
    assert len(DEFAULT_OPERATIONS) >= 8


def filled(name: str, width: int = 8) -> Operation:
    torch.manual_seed(3)
    operation = make_operation(name, width, 300)
    with torch.no_grad():
        for parameter in operation.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return operation


@pytest.mark.parametrize("name", ["conv", "self-attention", "min-gru", "gru"])
def test_mixing_operations_let_positions_see_each_other(name: str) -> None:
    mixer, x, ones = filled(name), torch.randn(5, 8), torch.ones(5)
    changed = x.clone()
    changed[0] += 1
    moved = (mixer(x, ones) - mixer(changed, ones)).abs().amax(-1)
    assert moved[1] > 1e-4


@pytest.mark.parametrize(
    "name", ["linear", "mlp-tanh", "mlp-gelu", "gated-mlp", "bottleneck-mlp", "self-attention"]
)
def test_permuting_positions_permutes_the_output(name: str) -> None:
    mixer, x, ones = filled(name), torch.randn(6, 8), torch.ones(6)
    order = torch.randperm(6)
    assert torch.allclose(mixer(x, ones)[order], mixer(x[order], ones), atol=1e-6)


def test_minimal_gru_equals_its_recurrence() -> None:
    mixer, x = filled("min-gru"), 5 * torch.randn(9, 8)
    parts = dict(mixer.named_modules())
    gate, candidate = parts["first"](x).chunk(2, dim=-1)
    state, rows = torch.zeros(8), []
    for z, c in zip(gate.sigmoid(), candidate.tanh(), strict=True):
        state = (1 - z) * state + z * c
        rows.append(state)
    expected = parts["last"](torch.stack(rows))
    assert torch.allclose(mixer(x, torch.ones(9)), expected, atol=1e-5)


def test_minimal_gru_survives_saturated_gates() -> None:
    mixer = filled("min-gru")
    x = torch.randn(300, 8).mul(1e4).requires_grad_()
    mixer(x, torch.ones(300)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_convolution_equals_torch_conv1d() -> None:
    mixer, x = filled("conv"), torch.randn(5, 8)
    parts = dict(mixer.named_parameters())
    reference = nn.Conv1d(8, 8, 3, padding=1, groups=8)
    with torch.no_grad():
        reference.weight.copy_(parts["depthwise"][:, None])
        reference.bias.copy_(parts["bias"])  # type: ignore[union-attr]
        mixed = nn.functional.gelu(reference(x.t()[None])[0].t())
        expected = mixed @ parts["last.weight"].t() + parts["last.bias"]
    assert torch.allclose(mixer(x, torch.ones(5)), expected, atol=1e-5)


def test_attention_presence_equals_log_added_to_the_scores() -> None:
    mixer, x = filled("self-attention"), torch.randn(4, 8)
    presence = torch.tensor([1.0, 0.7, 0.2, 0.2])
    parts = dict(mixer.named_modules())
    query, key, value = parts["first"](x).view(4, 3, 4, 2).permute(1, 2, 0, 3)
    mixed = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=presence.log().expand(4, 4)
    )
    expected = parts["last"](mixed.transpose(0, 1).reshape(4, 8))
    assert torch.allclose(mixer(x, presence), expected, atol=1e-5)


class Shift(Operation):
    """A third party's operation: the previous position, through a linear layer."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__(width, length)
        self.last = zero_linear(width, width)

    def forward(self, x: Tensor, presence: Tensor) -> Tensor:
        result: Tensor = self.last((x * presence[:, None]).roll(1, 0))
        return result


@pytest.fixture
def shift(tmp_path: Path) -> Iterator[str]:
    """The third party's operation, registered for one test."""
    with added(OPERATIONS, tmp_path, {"shift": f"{__name__}:Shift"}):
        yield "shift"


def test_a_third_party_can_register_an_operation(shift: str) -> None:
    assert shift in list_operations()
    assert isinstance(make_operation(shift, 4, 5), Shift)
    space = PrefixSettings(operations=(shift, "linear")).space(PrefixShape(1, 1, 2))
    assert space.decisions()["cell.0"] == (shift, "linear")


def test_the_suite_catches_an_operation_that_leaks(shift: str) -> None:
    """Shift rolls the last position into the first, so cutting it off must be noticed."""

    class Leaky(OperationSuite):
        name = "shift"

    Leaky().test_starts_by_adding_zero()
    with pytest.raises(AssertionError):
        Leaky().test_absent_positions_are_as_if_cut_off()


def test_unknown_operations_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'mlp-tanh'"):
        make_operation("mlp-tan", 4, 5)


PARAMETERS = {
    SKIP: lambda w: 0,
    "linear": lambda w: w * w + w,
    "mlp-tanh": lambda w: 4 * w * w + 3 * w,
    "mlp-gelu": lambda w: 4 * w * w + 3 * w,
    "gated-mlp": lambda w: 3 * w * (4 * w // 3) + 2 * (4 * w // 3) + w,
    "bottleneck-mlp": lambda w: 2 * w * (w // 4) + w // 4 + w,
    "conv": lambda w: 4 * w + w * w + w,
    "self-attention": lambda w: 4 * w * w + 4 * w,
    "min-gru": lambda w: 3 * w * w + 3 * w,
    "gru": lambda w: 7 * w * w + 7 * w,
}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameter_counts(name: str) -> None:
    count = sum(p.numel() for p in make_operation(name, 24, 9).parameters())
    assert count == PARAMETERS[name](24)
