"""What is trained on top of contexts: where it goes, what stays, what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peml.errors import ConfigError, ModelError, RunError
from peml.export import add_task, export_model
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.context.correction import Correction
from peml.methods.context.part import ContextPart
from peml.methods.context.settings import CorrectionSettings
from peml.methods.registry import build_method, parse_method
from peml.methods.shape import read_shape
from peml.prefix.prefix import Prefix
from peml.prefix.shape import PrefixShape
from peml.testing import TINY_ROWS, batch_of, tiny_task_model
from peml.testing.answers import scores_of
from peml.testing.tasks import tasks_with_contexts
from tests.export.trained import run_of

SHAPE = PrefixShape(2, 3, 4)


def correction(lengths: tuple[int, ...] = (5, 7), **settings: Any) -> Correction:
    chosen = CorrectionSettings.model_validate({"trains": "keys-values", **settings})
    made = Correction(SHAPE, lengths, chosen, 0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in made.last:
            parameter.add_(torch.randn_like(parameter))
    return made


def context(length: int) -> Prefix:
    generator = torch.Generator().manual_seed(length)
    return Prefix(torch.randn(2, 2, 3, length, 4, generator=generator), (True, True))


def section(of: str = "frozen", **settings: Any) -> dict[str, Any]:
    corrected = {"trains": "values", **settings}
    held = {"name": "lora+context", "lora": {"r": 2}, "context": {"of": of}}
    return {**held, "correction": corrected}


def attached(of: str = "frozen", **settings: Any) -> AttachedModel:
    method = build_method(parse_method(section(of, **settings)))
    model = tiny_task_model("llama", tasks_with_contexts())
    return method.attach(model, AttachContext(0, lambda: None)).eval()


@pytest.mark.parametrize("kind", ["free", "low-rank"])
def test_values_alone_leave_keys_and_the_first_position(kind: str) -> None:
    held = context(7)
    moved = correction(kind=kind, trains="values").eval().add(1, held).tensor - held.tensor
    assert not moved[:, 0].any()
    assert not moved[:, 1, :, 0].any()
    assert moved[:, 1, :, 1:].all()
    both = correction(kind=kind, freeze_first=False).eval().add(1, held).tensor - held.tensor
    assert both.all()


def test_a_number_goes_to_its_layer_head_and_position() -> None:
    made = correction(trains="keys-values").eval()
    moved = made.add(0, context(5)).tensor - context(5).tensor
    rows: Tensor = made.last[0]  # (layers, halves, positions, heads * channels)
    torch.testing.assert_close(moved[1, 0, 2, 3], rows[1, 0, 2].view(3, 4)[2])


def test_low_rank_is_of_low_rank_in_every_layer() -> None:
    made = correction((9,), kind="low-rank", rank=2, freeze_first=False).eval()
    moved = made.add(0, context(9)).tensor - context(9).tensor
    ranks = torch.linalg.matrix_rank(moved.transpose(2, 3).flatten(3), atol=1e-5, rtol=0)
    assert (ranks == 2).all()


def test_positions_are_dropped_in_training_and_never_the_first() -> None:
    made, held = correction(dropout=0.9, trains="values"), context(7)
    lengths = set()
    for seed in range(20):
        torch.manual_seed(seed)
        kept = made.add(1, held).tensor
        assert torch.equal(kept[..., :1, :], held.tensor[..., :1, :])
        lengths.add(kept.shape[3])
    assert max(lengths) < 7
    assert made.eval().add(1, held).length == 7


@pytest.mark.parametrize("of", ["frozen", "adapted"])
def test_switched_off_the_context_is_the_computed_one(of: str) -> None:
    model, plain = attached(of), attached(of)
    part = model.parts["correction"]
    assert isinstance(part, Correction)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(1)
    batch = batch_of(model.base, TINY_ROWS, "score")
    computed = scores_of(plain, batch)
    assert not torch.allclose(scores_of(model, batch), computed)
    with part.disabled():
        assert torch.equal(scores_of(model, batch), computed)


def test_a_correction_of_the_adapted_model_is_added_to_what_is_computed_anew() -> None:
    model = attached("adapted", dropout=0)
    part = model.parts["context"]
    assert isinstance(part, ContextPart)
    correction = model.parts["correction"]
    assert isinstance(correction, Correction)
    with torch.no_grad():
        correction.last[0].add_(1)
        before = part.static_contexts()[0].tensor
        for parameter in model.parts["lora"].groups()[0].parameters:
            parameter.add_(0.1)
        after = part.static_contexts()[0].tensor
        with correction.disabled():
            computed = part.static_contexts()[0].tensor
    assert not torch.allclose(before[:, 1, :, 1:], after[:, 1, :, 1:])
    torch.testing.assert_close(after[:, 1, :, 1:] - 1, computed[:, 1, :, 1:])


def test_a_budget_below_the_correction_lowers_its_rank() -> None:
    method = build_method(parse_method(section(kind="low-rank", rank=40)))
    shape = read_shape(tiny_task_model("llama", tasks_with_contexts()))
    budget = method.count_parameters(shape)["correction"] // 2
    resized = build_method(method.resized(shape, budget) or method.settings_type(name="none"))
    counts = resized.count_parameters(shape)
    assert sum(counts.values()) == pytest.approx(budget, rel=0.05)
    assert counts["correction"] > 0
    with pytest.raises(ModelError, match="doesn't know"):
        method.count_parameters(replace(shape, contexts=()))


def test_contexts_alone_meet_a_budget_by_their_rank_unless_they_are_free() -> None:
    shape = read_shape(tiny_task_model("llama", tasks_with_contexts()))
    low, free = (
        build_method(parse_method({"name": "context-tuning", "correction": {"kind": kind}}))
        for kind in ("low-rank", "free")
    )
    budget = low.count_parameters(shape)["correction"] * 3  # of rank 8
    settings = low.resized(shape, budget)
    assert settings is not None
    assert build_method(settings).count_parameters(shape) == {"correction": budget}
    assert free.resized(shape, budget) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"correction": {"rank": 4}}, "trains nothing"),
        ({"correction": {"trains": "values"}, "context": {"draw": "step"}}, "draw: once"),
    ],
)
def test_what_would_train_nothing_or_anything_is_refused(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_method({"name": "lora+context", **settings})


def test_a_trained_context_is_no_text_and_takes_no_new_task(tmp_path: Path) -> None:
    run = run_of("llama", "lora+context", tmp_path, correction={"trains": "values"})
    with pytest.raises(RunError, match="those of no text"):
        export_model(run, tmp_path / "out", "text")
    task = tasks_with_contexts()[0].model_copy(update={"name": "new"})
    with pytest.raises(RunError, match="contexts were trained"):
        add_task(run, task, 1)
