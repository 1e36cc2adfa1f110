"""Which task a row belongs to, and the layer that stands in a frozen one's place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from peml.errors import TaskError
from peml.methods.routed.delta import AdaptedLinear
from peml.methods.routed.multilora import MultiLoraDelta
from peml.methods.routed.settings import MultiLoraSettings
from peml.models import TaskRouting
from tests.methods.routed.reference import D_IN, D_OUT, linear


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(1, 4))
def test_copies_of_a_sequence_have_its_task(ids: list[int], copies: int) -> None:
    routing = TaskRouting(5)
    routing.set(torch.tensor(ids))
    wanted = [task for task in ids for _ in range(copies)]
    assert routing.rows(len(ids) * copies).tolist() == wanted


@given(
    st.lists(st.integers(-3, 9), min_size=1, max_size=6).filter(
        lambda ids: not all(0 <= i < 5 for i in ids)
    )
)
def test_ids_outside_the_tasks_are_refused_all_of_them_named(ids: list[int]) -> None:
    routing = TaskRouting(5)
    with pytest.raises(TaskError) as caught:
        routing.set(torch.tensor(ids))
    wrong = sorted({i for i in ids if not 0 <= i < 5})
    assert f"ids {', '.join(map(str, wrong))}\n" in str(caught.value)
    assert "0 to 4" in str(caught.value)


def test_refused_ids_leave_the_former_ones() -> None:
    routing = TaskRouting(2)
    routing.set(torch.tensor([1, 0]))
    with pytest.raises(TaskError):
        routing.set(torch.tensor([2, 0]))
    assert routing.rows(2).tolist() == [1, 0]


def test_without_ids_and_with_rows_that_do_not_fit_there_is_no_guess() -> None:
    routing = TaskRouting(3)
    with pytest.raises(TaskError, match="without task ids"):
        routing.rows(4)
    routing.set(torch.tensor([0, 1]))
    with pytest.raises(TaskError, match="3 rows in a batch of 2 sequences"):
        routing.rows(3)


def test_one_task_serves_batches_of_any_size() -> None:
    routing = TaskRouting(3)
    routing.one_task(2, torch.device("cpu"))
    assert routing.rows(1).tolist() == [2]
    assert routing.rows(5).tolist() == [2] * 5
    with pytest.raises(TaskError, match="ids 3"):
        routing.one_task(3, torch.device("cpu"))


@pytest.mark.parametrize("length", [3, 5])
def test_the_mask_is_the_one_that_is_meant_whatever_its_shape(length: int) -> None:
    routing = TaskRouting(1)
    inputs, targets = torch.ones(2, 5), torch.zeros(2, length)
    routing.set(torch.tensor([0, 0]), inputs=inputs, targets=targets)
    torch.testing.assert_close(routing.mask("inputs", 2, 5), inputs)
    torch.testing.assert_close(routing.mask("targets", 2, length), targets)
    torch.testing.assert_close(routing.mask("inputs", 10, 1), inputs.reshape(10, 1))
    with pytest.raises(TaskError, match="gets 4 x 5 tokens, but the batch's inputs are 2 x 5"):
        routing.mask("inputs", 4, 5)
    routing.set(torch.tensor([0, 0]), inputs=inputs)
    assert routing.mask("targets", 2, 5) is None
    routing.set(torch.tensor([0, 0]))
    assert routing.mask("inputs", 2, 5) is None


def _delta(**options: Any) -> MultiLoraDelta:
    settings = MultiLoraSettings(r=2, alpha=2, branches=2, **options)
    delta = MultiLoraDelta(linear(), TaskRouting(1), settings)
    nn.init.normal_(delta.scaling)
    return delta


def test_the_layer_adds_the_update_unless_it_is_off() -> None:
    base, delta, x = nn.Linear(D_IN, D_OUT), _delta(), torch.randn(2, 3, D_IN)
    layer = AdaptedLinear(base, delta)
    torch.testing.assert_close(layer(x), base(x) + delta(x))
    layer.enabled = False
    assert torch.equal(layer(x), base(x))
    assert layer.weight is base.weight


def test_merged_it_is_the_base_layer() -> None:
    base, x = nn.Linear(D_IN, D_OUT), torch.randn(2, 3, D_IN)
    layer = AdaptedLinear(base, _delta())
    before = layer(x)
    assert layer.merged() is base
    torch.testing.assert_close(base(x), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_beside_half_precision_weights_it_computes_in_float32(dtype: torch.dtype) -> None:
    base, delta = nn.Linear(D_IN, D_OUT).to(dtype), _delta()
    x = torch.randn(2, 3, D_IN, dtype=dtype)
    y = AdaptedLinear(base, delta)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, base(x) + delta(x.float()).to(dtype))
    assert {p.dtype for p in delta.parameters()} == {torch.float32}


def test_dropout_falls_on_the_updates_input_alone() -> None:
    base, delta, x = nn.Linear(D_IN, D_OUT), _delta(dropout=0.999999), torch.randn(2, 3, D_IN)
    layer = AdaptedLinear(base, delta).train()
    assert torch.equal(layer(x), base(x))
    assert not torch.equal(layer.eval()(x), base(x))
