"""The task-aware methods, in their variants, against the suite that third parties use too.

The other methods' classes stand beside their own tests.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from peml.methods.attached import AttachedModel
from peml.methods.context.settings import (
    ContextSettings,
    ContextTuningSettings,
    CorrectionSettings,
    LoraContextSettings,
    TunedContextSettings,
    TunedCorrectionSettings,
)
from peml.methods.lora.settings import LoraMethodSettings, LoraSettings
from peml.methods.registry import list_methods
from peml.methods.routed.mtl_lora import MtlLora, MtlLoraDelta
from peml.methods.routed.part import AdapterPart
from peml.methods.routed.settings import (
    CPolySettings,
    MoeLoraSettings,
    MtlLoraSettings,
    MultiLoraSettings,
)
from peml.models import TaskRouting
from peml.testing import MethodSuite

_UP = ("*.delta.up",)


class TestLora(MethodSuite):
    settings = LoraMethodSettings(r=2)
    learns_first = ("*.lora_B.*",)


class TestLoraOnGpt2(TestLora):
    families = ("gpt2",)


class TestMtlLora(MethodSuite):
    settings = MtlLoraSettings(r=2)
    learns_first = _UP


class TestMtlLoraDiagonal(MethodSuite):
    settings = MtlLoraSettings(r=2, transform="diagonal", bases=2)
    families = ("bert", "gpt2")
    learns_first = _UP


class TestMtlLoraRandomStart(MethodSuite):
    settings = MtlLoraSettings(r=2, mixing_start="random")
    families = ("llama",)
    learns_first = _UP


class TestMultiLora(MethodSuite):
    settings = MultiLoraSettings(r=2)
    learns_first = ("*.delta.scaling",)


class TestMultiLoraOnGpt2(TestMultiLora):
    families = ("gpt2",)


class TestCPoly(MethodSuite):
    settings = CPolySettings(noise=False)
    learns_first = _UP


class TestCPolyWithNoise(MethodSuite):
    settings = CPolySettings(normalised=False)
    families = ("gpt2",)
    learns_first = _UP


class TestCPolyDiagonal(MethodSuite):
    settings = CPolySettings(own_matrix="diagonal")
    families = ("bert", "t5")
    learns_first = _UP


class TestCPolyFactors(MethodSuite):
    settings = CPolySettings(mixing="factors")
    families = ("llama",)
    learns_first = _UP


class TestCPolyFactorsDiagonal(MethodSuite):
    settings = CPolySettings(mixing="factors", own_matrix="diagonal", own=2)
    families = ("bert",)
    learns_first = _UP


class TestPoly(MethodSuite):
    settings = CPolySettings(mixing="factors", own=0)
    families = ("t5",)
    learns_first = _UP


class TestMoeLora(MethodSuite):
    settings = MoeLoraSettings(r=4, experts=2, embedding=5)
    learns_first = _UP


class TestMoeLoraGatePerLayer(MethodSuite):
    settings = MoeLoraSettings(r=4, experts=2, embedding=5, gate="per-layer")
    families = ("bert", "gpt2")
    learns_first = _UP


class TestMoeLoraByToken(MethodSuite):
    settings = MoeLoraSettings(r=4, experts=4, routing="token")
    learns_first = (*_UP, "*.delta.router")


def test_no_method_is_without_a_class() -> None:
    for file in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.methods.{file.stem}")

    def below(suite: type[MethodSuite]) -> Iterator[type[MethodSuite]]:
        for child in suite.__subclasses__():
            yield child
            yield from below(child)

    tested = {suite.settings.name for suite in below(MethodSuite)}
    assert tested >= set(list_methods())


def _loud(delta: MtlLoraDelta, *args: Any, **options: Any) -> None:
    _START(delta, *args, **options)
    torch.nn.init.ones_(delta.up)


def _global_seed(method: MtlLora, model: Any, context: Any) -> AttachedModel:
    torch.manual_seed(0)
    return _ATTACH(method, model, context)


def _forgetful(part: AdapterPart) -> list[Any]:
    return [group for group in _GROUPS(part) if group.name == "adapter"]


def _moving(model: AttachedModel, step: int) -> None:
    next(p for p in model.base.backbone.parameters() if not p.requires_grad).data.add_(1)


def _next_tasks(routing: TaskRouting, count: int) -> torch.Tensor:
    """As a context that is reset after the forward pass: recomputation reads other ids."""
    ids = _ROWS(routing, count)
    return ids if torch._C._current_graph_task_id() < 0 else (ids + 1) % routing.tasks


def _half(delta: MtlLoraDelta, x: torch.Tensor) -> torch.Tensor:
    return _UPDATE(delta, x) + (torch.nan if torch.is_autocast_enabled("cpu") else 0.0)


def _of_batch(routing: TaskRouting, count: int) -> torch.Tensor:
    return _ROWS(routing, count)[:1].expand(count)


def _unchecked(routing: TaskRouting, ids: torch.Tensor, **masks: Any) -> None:
    _SET(routing, ids.clamp(0, routing.tasks - 1), **masks)


@contextmanager
def _still_on(part: AdapterPart) -> Iterator[None]:
    yield


def _first_task(delta: MtlLoraDelta, task_id: int) -> Any:
    return _FACTORS(delta, 0)


_START, _ATTACH, _GROUPS = MtlLoraDelta.__init__, MtlLora.attach, AdapterPart.groups
_ROWS, _SET, _UPDATE = TaskRouting.rows, TaskRouting.set, MtlLoraDelta.update
_FACTORS = MtlLoraDelta.factors

_BROKEN: list[tuple[str, type, str, Any]] = [
    ("a_fresh_method_changes_nothing", MtlLoraDelta, "__init__", _loud),
    ("the_seed_decides_and_the_global_generator_is_left_alone", MtlLora, "attach", _global_seed),
    (
        "parameters_are_as_many_as_the_closed_form_says",
        MtlLora,
        "count_at",
        lambda *_: {"adapter": 7},
    ),
    (
        "resizing_meets_a_budget",
        MtlLora,
        "resized",
        lambda method, *_: method.settings.model_copy(update={"r": 9}),
    ),
    ("the_first_steps_reach_what_they_should", MtlLoraDelta, "__init__", _loud),
    ("gradients_reach_exactly_what_is_declared", AdapterPart, "groups", _forgetful),
    ("nothing_frozen_moves", AttachedModel, "after_step", _moving),
    ("checkpointing_changes_no_gradient", TaskRouting, "rows", _next_tasks),
    ("packed_rows_equal_padded_ones", TaskRouting, "rows", _next_tasks),
    ("half_precision_gives_finite_gradients", MtlLoraDelta, "update", _half),
    ("a_mixed_batch_equals_a_batch_a_task", TaskRouting, "rows", _of_batch),
    (
        "the_task_id_matters_exactly_where_it_is_needed",
        MtlLora,
        "needs_task_id",
        property(lambda _: False),
    ),
    ("an_unknown_task_id_is_refused", TaskRouting, "set", _unchecked),
    ("generation_equals_teacher_forcing", TaskRouting, "rows", _of_batch),
    ("trainable_state_comes_back", AttachedModel, "load_trainable_state", lambda *_: None),
    ("switched_off_it_is_the_plain_model", AdapterPart, "disabled", _still_on),
    ("merged_equals_unmerged", AdapterPart, "merge", lambda *_: None),
    ("each_tasks_factors_are_its_update", MtlLoraDelta, "factors", _first_task),
    ("saved_and_loaded_it_says_the_same", AdapterPart, "load_kept", lambda *_: None),
]


@pytest.mark.parametrize(("check", "owner", "name", "broken"), _BROKEN, ids=[b[0] for b in _BROKEN])
def test_a_method_that_breaks_its_promise_is_caught(
    check: str,
    owner: type,
    name: str,
    broken: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = TestMtlLora()
    options: dict[str, Any] = {"family": "llama"}
    if check == "saved_and_loaded_it_says_the_same":
        options["tmp_path"] = tmp_path
    run = getattr(suite, f"test_{check}")
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(AssertionError):
        run(**options)


def test_every_check_of_the_suite_is_shown_to_catch_something() -> None:
    checks = {name.removeprefix("test_") for name in dir(MethodSuite) if name.startswith("test_")}
    assert {check for check, *_ in _BROKEN} == checks


class TestLoraContext(MethodSuite):
    settings = LoraContextSettings(lora=LoraSettings(r=2))
    families = ("bert", "llama")
    identity_at_start = False  # rows see the context from the first step on
    learns_first = ("*.lora_B.*",)


class TestLoraContextAdapted(TestLoraContext):
    settings = LoraContextSettings(lora=LoraSettings(r=2), context=ContextSettings(of="adapted"))


class TestLoraContextFree(MethodSuite):
    settings = LoraContextSettings(
        lora=LoraSettings(r=2), correction=CorrectionSettings(trains="values", dropout=0)
    )
    families = ("bert", "llama")
    identity_at_start = False
    learns_first = ("*.lora_B.*", "*.correction.last.*")


class TestLoraContextLowRank(TestLoraContextFree):
    settings = LoraContextSettings(
        lora=LoraSettings(r=2),
        context=ContextSettings(of="adapted"),
        correction=CorrectionSettings(
            trains="keys-values", kind="low-rank", rank=2, freeze_first=False, dropout=0
        ),
    )


class TestContextTuning(MethodSuite):
    settings = ContextTuningSettings(context=TunedContextSettings(leave_one_out=None))
    families = ("bert", "llama")
    identity_at_start = False
    learns_first = ("*.correction.last.*",)


class TestContextTuningFree(TestContextTuning):
    settings = ContextTuningSettings(
        context=TunedContextSettings(leave_one_out=None),
        correction=TunedCorrectionSettings(trains="values", kind="free"),
    )
    random_start = False
