"""LoRA through PEFT: harmless at the start, trained alone, switched off, merged, saved."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear

from peml.data import TaskBatch
from peml.errors import CheckpointError, ModelError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.lora.lora import Lora, ScaledLinear
from peml.methods.lora.settings import LoraMethodSettings
from peml.models import TaskModel
from peml.testing.models import tiny_model
from tests.models.tasks import batch_of, gradients, tiny_task_model
from tests.tasks.examples import score, sentiment

TASKS = (sentiment(), score())
ROWS: list[tuple[int, dict[str, Any]]] = [
    (0, {"sentence": "the film was good", "label": 1}),
    (1, {"first": "a man", "second": "a person is moving", "score": 3.5}),
    (0, {"sentence": "bad", "label": 0}),
]
FAMILIES = ["bert", "llama", "t5", "gpt2"]


def plain(name: str) -> TaskModel:
    return tiny_task_model(name, TASKS)


def attach(name: str, *, seed: int = 0, **lora: Any) -> AttachedModel:
    settings = LoraMethodSettings.model_validate({"r": 2} | lora)
    return Lora(settings).attach(plain(name), AttachContext(seed=seed, calibrate=lambda: None))


def disturb(model: AttachedModel) -> AttachedModel:
    """As after some training: B is no longer zero."""
    with torch.no_grad():
        for parameter in model.groups()[0].parameters:
            noise = torch.Generator().manual_seed(parameter.numel())
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.2)
    return model


def batch(model: AttachedModel) -> TaskBatch:
    return batch_of(model.base, ROWS)


def scores(model: Any) -> torch.Tensor:
    with torch.no_grad():
        made: torch.Tensor = model(batch_of(getattr(model, "base", model), ROWS)).scores
    return made


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fresh_lora_changes_nothing(name: str) -> None:
    assert torch.equal(scores(attach(name)), scores(plain(name)))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_linear_layer_but_the_output_learns_and_nothing_else(name: str) -> None:
    model = disturb(attach(name))
    model(batch(model)).loss.backward()
    declared = {id(p) for group in model.groups() for p in group.parameters}
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, p in model.named_parameters() if id(p) in declared}
    assert with_gradient == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(gradient.abs().sum() > 0 for gradient in gradients(model).values())
    layers = [
        module
        for path, module in plain(name).backbone.named_modules()
        if (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D")
        and not path.endswith("lm_head")
    ]
    lora = model.groups()[0]
    assert len(lora.parameters) == 2 * len(layers)
    assert not any("lm_head" in n for n in with_gradient)


def test_groups_are_named_with_their_default_rates() -> None:
    model = attach("bert", learning_rate=0.5)
    assert [(group.name, group.learning_rate) for group in model.groups()] == [
        ("lora", 0.5),
        ("heads", 1e-3),
    ]
    assert [group.name for group in attach("llama").groups()] == ["lora"]


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = attach("bert"), attach("bert"), attach("bert", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    name = next(n for n in first.trainable_state() if "lora_A" in n)
    assert torch.equal(first.trainable_state()[name], again.trainable_state()[name])
    assert not torch.equal(first.trainable_state()[name], other.trainable_state()[name])


def test_the_update_is_scaled_by_alpha_over_rank() -> None:
    one, two = (disturb(attach("bert", alpha=alpha, target_modules=("query",))) for alpha in (2, 4))

    def change(model: AttachedModel) -> torch.Tensor:
        layer: Any = next(m for m in model.modules() if hasattr(m, "get_delta_weight"))
        delta: torch.Tensor = layer.get_delta_weight("default")
        return delta

    assert change(one).abs().max() > 0
    torch.testing.assert_close(change(two), 2 * change(one))


def test_frozen_half_precision_weights_get_a_float32_adapter() -> None:
    base = plain("bert")
    base.backbone.to(torch.bfloat16)
    context = AttachContext(seed=0, calibrate=lambda: None)
    model = Lora(LoraMethodSettings()).attach(base, context)
    assert {p.dtype for p in model.groups()[0].parameters} == {torch.float32}
    assert torch.isfinite(model(batch(model)).loss)


@pytest.mark.parametrize("name", FAMILIES)
def test_switched_off_it_is_the_plain_model_and_back_on_it_is_itself(name: str) -> None:
    model = disturb(attach(name))
    on = scores(model)
    (off,) = model.ablations().items()
    assert off[0] == "lora_off"
    with off[1]():
        assert torch.equal(scores(model), scores(plain(name)))
    assert torch.equal(scores(model), on)
    assert not torch.equal(on, scores(plain(name)))
    assert all(p.requires_grad for p in model.groups()[0].parameters)
    with pytest.raises(RuntimeError), model.ablations()["lora_off"]():
        raise RuntimeError
    assert torch.equal(scores(model), on)


@pytest.mark.parametrize("name", FAMILIES)
def test_merged_it_is_plain_layers_with_the_same_answers(name: str) -> None:
    model = disturb(attach(name))
    before = scores(model)
    assert model.merge() is None
    torch.testing.assert_close(scores(model), before, rtol=1e-4, atol=1e-4)
    kept = {n for n, _ in model.base.backbone.named_parameters()}
    assert kept == {n for n, _ in plain(name).backbone.named_parameters()}


def test_saved_it_loads_with_peft_alone(tmp_path: Path) -> None:
    model = disturb(attach("llama"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns where it would ask the hub
        model.save_parts(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path / "lora"))
    ids = torch.arange(8, 20)[None]
    with torch.no_grad():
        expected = model.base.backbone(input_ids=ids).logits
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["nothing", ("nothing", "here"), "("])
def test_layers_the_model_does_not_have_are_one_clear_message(target: Any) -> None:
    with pytest.raises(ModelError, match=r"no linear layer|no regular expression") as caught:
        attach("bert", target_modules=target)
    assert "method.target_modules" in str(caught.value)


def test_trainable_state_is_what_training_changes_and_comes_back() -> None:
    model = disturb(attach("bert"))
    state = {name: value.clone() for name, value in model.trainable_state().items()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(state) == trained
    other = attach("bert", seed=3)
    assert not torch.equal(scores(other), scores(model))
    other.load_trainable_state(state)
    assert torch.equal(scores(other), scores(model))


def test_state_of_another_model_is_refused_by_name_and_changes_nothing() -> None:
    model = attach("bert")
    before = {name: value.clone() for name, value in model.trainable_state().items()}
    with pytest.raises(CheckpointError, match="do not fit this model: base"):
        model.load_trainable_state(attach("bert", r=3).trainable_state())
    with pytest.raises(CheckpointError, match=r"extra"):
        model.load_trainable_state({**before, "extra": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"heads\.bias"):
        model.load_trainable_state({k: v for k, v in before.items() if "heads.bias" not in k})
    assert all(torch.equal(model.trainable_state()[n], value) for n, value in before.items())


def test_parts_are_prepared_before_each_pass_and_once_inside_prepared() -> None:
    class Counting:
        name = "counting"
        calls = 0

        def prepare(self, batch: TaskBatch | None = None) -> None:
            self.calls += 1

    part: Any = Counting()
    model = AttachedModel(plain("bert"), {"counting": part}).eval()
    for _ in range(2):
        model(batch(model))
    assert part.calls == 2
    with model.prepared():
        for _ in range(3):
            model(batch(model))
    assert part.calls == 3
    with pytest.raises(RuntimeError), model.prepared():
        raise RuntimeError
    model(batch(model))
    assert part.calls == 5


def test_under_autocast_a_layers_input_is_not_copied_and_nothing_else_changes() -> None:
    base = plain("llama")
    base.backbone.to(torch.bfloat16)
    context = AttachContext(seed=0, calibrate=lambda: None)
    model = disturb(Lora(LoraMethodSettings(r=2)).attach(base, context))
    first: Any = next(m for m in model.modules() if isinstance(m, ScaledLinear))
    seen: list[torch.Tensor] = []
    for module in (first, first.lora_A["default"]):
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.autocast("cpu", torch.bfloat16):
        kept = scores(model)
    outer, inner = seen
    assert inner is outer
    for layer in model.modules():
        layer._forward_pre_hooks.clear()
        if isinstance(layer, ScaledLinear):
            layer.__class__ = Linear  # PEFT's own
    with torch.autocast("cpu", torch.bfloat16):
        cast = scores(model)
    assert torch.equal(kept, cast)


def test_without_autocast_a_bfloat16_input_meets_the_float32_update() -> None:
    base = plain("llama")
    base.backbone.to(torch.bfloat16)
    context = AttachContext(seed=0, calibrate=lambda: None)
    model = Lora(LoraMethodSettings(r=2)).attach(base, context)
    with torch.autocast("cpu", torch.bfloat16):
        scores(model)
    assert scores(model).isfinite().all()


def test_dropout_is_pefts() -> None:
    model = disturb(attach("llama", dropout=0.5)).train()
    layer = next(m for m in model.modules() if isinstance(m, ScaledLinear))
    inputs, results = torch.randn(3, layer.in_features), []
    for forward in (ScaledLinear.forward, Linear.forward):
        torch.manual_seed(0)
        results.append(forward(layer, inputs))
    torch.testing.assert_close(*results)
    layer.eval()
    assert not torch.allclose(layer(inputs), results[0])
