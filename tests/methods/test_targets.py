"""Which layers a method works on: counted as attached, tied ones and unknown names refused."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from peml.errors import ModelError
from peml.methods.attached import AttachedModel, check_count
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, list_methods, parse_method
from peml.methods.shape import ModelShape, read_shape
from peml.methods.targets import read_layers
from peml.models import TaskModel
from peml.testing.models import tiny_model
from peml.testing.tasks import TINY_TASKS, batch_of, tiny_task_model

MIXTURES = ("deepseek-v3", "mixtral", "olmoe", "qwen2-moe", "qwen3-moe")
FAMILIES = ("bert", "electra", "falcon", "gpt2", "llama", "opt", "phi3", "t5", *MIXTURES)

SMALL: dict[str, dict[str, Any]] = {
    "adalora": {"init_r": 3, "target_r": 2, "dropout": 0.1},
    "c-poly": {"r": 2, "dropout": 0.1},
    "dora": {"r": 2, "dropout": 0.1},
    "frozen": {},
    "full": {},
    "hira": {"r": 2, "dropout": 0.1},
    "lora": {"r": 2, "dropout": 0.1},
    "lora+context": {"lora": {"r": 2}},
    "lora+prefix": {"lora": {"r": 2}, "length": 3, "width": 4},
    "miss": {"r": 2, "dropout": 0.1},
    "moe-lora": {"r": 4, "experts": 2, "routing": "token"},
    "mtl-lora": {"r": 2},
    "multilora": {"r": 2},
    "peml": {"lora": {"r": 2}, "lora_ranks": [1, 3], "search": {"mode": "random"}},
    "prefix-nas": {"search": {"mode": "random"}},
    "prefix-tuning": {"length": 3},
    "prompt-tuning": {"length": 3},
    "rslora": {"r": 2},
}
if importlib.util.find_spec("peft.tuners.hira") is None:  # it came with PEFT 0.20
    del SMALL["hira"]
LOW_RANK = tuple(
    name
    for name, section in SMALL.items()
    if name != "lora+context"  # its LoRA is that of the others, and few models hold a context
    and ("lora" in section or name.endswith(("poly", "ora", "hira", "miss")))
)


def targeting(name: str, target_modules: str | Sequence[str]) -> dict[str, Any]:
    """The method's section with other target modules."""
    section = {"name": name, **SMALL[name]}
    if "lora" in section:
        return {**section, "lora": {**section["lora"], "target_modules": target_modules}}
    return {**section, "target_modules": target_modules}


def attach(section: dict[str, Any], model: TaskModel) -> tuple[ModelShape, AttachedModel]:
    method = build_method(parse_method(section))
    shape = read_shape(model)
    context = AttachContext(seed=0, calibrate=lambda: model(batch_of(model)), total_steps=20)
    attached = method.attach(model, context)
    check_count(method, shape, attached)
    return shape, attached


def trained(model: AttachedModel) -> int:
    """Numbers that require a gradient, heads left out: what an optimiser would move."""
    return sum(
        p.numel()
        for name, p in model.named_parameters()
        if p.requires_grad and "heads." not in name
    )


def test_every_method_is_counted() -> None:
    assert {*SMALL, "hira", "context-tuning"} == set(list_methods())  # the last has no layers


@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_parameters_train_as_the_closed_form_says(family: str) -> None:
    for name, section in SMALL.items():
        model = tiny_task_model(family, TINY_TASKS)
        if read_shape(model).attention is None and ("prefix" in name or name == "peml"):
            continue  # refused: no prefix can be put in front of this model's attention
        if name == "lora+context" and family not in ("bert", "electra", "llama", "phi3"):
            continue  # most others can't hold a context
        if (family, name) == ("gpt2", "miss"):
            with pytest.raises(ModelError, match="Conv1D") as caught:
                attach({"name": name, **section}, model)
            assert "leave these layers out of method.target_modules" in str(caught.value)
            continue
        shape, attached = attach({"name": name, **section}, model)
        low, high = build_method(parse_method({"name": name, **section})).parameter_range(shape)
        assert low <= trained(attached) <= high, name
        if section.get("search") is None:
            assert low == high, name


@pytest.mark.parametrize("family", MIXTURES)
def test_no_update_is_put_on_experts_and_routers(family: str) -> None:
    for name in LOW_RANK:
        model = tiny_task_model(family, TINY_TASKS)
        if read_shape(model).attention is None and name in ("peml", "lora+prefix"):
            continue
        _, attached = attach({"name": name, **SMALL[name]}, model)
        attached.train()
        attached(batch_of(model)).loss.backward()
        moved = {n for n, p in attached.named_parameters() if p.grad is not None}
        assert moved
        assert not [n for n in moved if ".experts." in n or ".gate." in n], name
        with torch.no_grad():
            attached.eval()
            before = attached(batch_of(model)).scores
            attached.merge()
            if build_method(parse_method({"name": name, **SMALL[name]})).merging.how == "once":
                torch.testing.assert_close(model(batch_of(model)).scores, before)


@pytest.mark.parametrize("name", LOW_RANK)
@pytest.mark.parametrize(
    ("family", "target", "said"),
    [
        ("mixtral", ["q_proj", "down_proj"], "experts.down_proj (4 x 32 x 48, several matrices"),
        ("mixtral", ["gate"], "mlp.gate (MixtralTopKRouter)"),
        ("qwen2-moe", ["down_proj"], "experts.down_proj (4 x 32 x 16"),
        ("olmoe", r".*\.(q_proj|gate_up_proj)", "experts.gate_up_proj"),
        ("llama", ["mlp"], "mlp (LlamaMLP)"),
    ],
)
def test_what_is_no_linear_layer_is_refused_when_counted_and_when_attached(
    name: str, family: str, target: Any, said: str
) -> None:
    method = build_method(parse_method(targeting(name, target)))
    model = tiny_task_model(family, TINY_TASKS)
    context = AttachContext(seed=0, calibrate=lambda: model(batch_of(model)), total_steps=20)
    for refused in (
        lambda: method.parameter_range(read_shape(model)),
        lambda: method.attach(model, context),
    ):
        with pytest.raises(ModelError) as caught:
            refused()
        assert said in caught.value.problem
        assert "target_modules: all-linear" in caught.value.action


def test_a_layer_is_named_by_more_of_its_path_where_experts_share_its_name() -> None:
    model = tiny_task_model("qwen2-moe", TINY_TASKS)
    target = ["shared_expert.down_proj"]
    _, attached = attach(targeting("lora", target), model)
    assert trained(attached) == 2 * 2 * (24 + 32)


@pytest.mark.parametrize("name", LOW_RANK)
@pytest.mark.parametrize(
    ("family", "config", "target", "tied"),
    [
        ("llama", {"tie_word_embeddings": True}, ["lm_head"], "lm_head (with model.embed_tokens)"),
        ("gpt2", {}, ["c_attn", "lm_head"], "lm_head (with transformer.wte)"),
        ("t5", {}, r"lm_head", "lm_head (with shared, encoder.embed_tokens, decoder.embed_tokens)"),
        ("mixtral", {"tie_word_embeddings": True}, ["lm_head"], "lm_head (with model.embed_to"),
    ],
)
def test_a_tied_layer_is_refused_by_name(
    name: str, family: str, config: dict[str, Any], target: Any, tied: str
) -> None:
    method = build_method(parse_method(targeting(name, target)))
    model = tiny_task_model(family, TINY_TASKS, **config)
    context = AttachContext(seed=0, calibrate=lambda: model(batch_of(model)), total_steps=20)
    for refused in (
        lambda: method.parameter_range(read_shape(model)),
        lambda: method.attach(model, context),
    ):
        with pytest.raises(ModelError) as caught:
            refused()
        assert tied in caught.value.problem
        assert "leave lm_head out" in caught.value.action


@pytest.mark.parametrize("target", [["embed_tokens"], ["shared"], ["encoder.embed_tokens"]])
@pytest.mark.parametrize("name", LOW_RANK)
def test_a_tied_embedding_is_refused(name: str, target: list[str]) -> None:
    family = "llama" if target == ["embed_tokens"] else "t5"
    model = tiny_task_model(family, TINY_TASKS, tie_word_embeddings=True)
    with pytest.raises(ModelError, match=r"another layer uses|can't adapt|can't be searched"):
        build_method(parse_method(targeting(name, target))).parameter_range(read_shape(model))


@pytest.mark.parametrize("name", LOW_RANK)
def test_an_untied_output_layer_is_adapted_counted_and_merged(name: str) -> None:
    model = tiny_task_model("llama", TINY_TASKS)
    section = targeting(name, ["lm_head"])
    shape, attached = attach(section, model)
    method = build_method(parse_method(section))
    counted = method.count_parameters(shape)
    assert sum(counted.values()) > counted.get("prefix", 0)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in attached.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.1)
        before = attached.eval()(batch_of(model)).scores
        attached.merge()
        if method.merging.how == "once":
            after = model(batch_of(model)).scores
            torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert isinstance(model.backbone.lm_head, nn.Linear)


@pytest.mark.parametrize("name", ["lora", "rslora"])
def test_an_untied_embedding_is_adapted_counted_and_merged(name: str) -> None:
    model = tiny_task_model("llama", TINY_TASKS)
    _, attached = attach(targeting(name, ["embed_tokens"]), model)
    assert trained(attached) == 2 * (384 + 32)
    with torch.no_grad():
        for parameter in attached.groups()[0].parameters:
            parameter.add_(0.1)
        before = attached.eval()(batch_of(model)).scores
        attached.merge()
        torch.testing.assert_close(model(batch_of(model)).scores, before, atol=1e-4, rtol=1e-4)


def test_layers_that_share_a_weight_are_found_by_the_weight_and_not_by_name() -> None:
    model = tiny_model("llama")
    layers = model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.gate_proj.weight
    layers[1].self_attn.q_proj = layers[0].self_attn.q_proj
    found = {layer.name: layer.tied for layer in read_layers(model).linears if layer.tied}
    assert found == {
        "model.layers.0.mlp.gate_proj": ("model.layers.1.mlp.up_proj",),
        "model.layers.1.mlp.up_proj": ("model.layers.0.mlp.gate_proj",),
        "model.layers.0.self_attn.q_proj": ("model.layers.1.self_attn.q_proj",),
    }
    with pytest.raises(ModelError, match="the same layer as model"):
        read_layers(model).select([r"layers.1.self_attn.q_proj"])
    with pytest.raises(ModelError, match="another layer uses"):
        read_layers(model).select("all-linear")


def test_a_block_that_stands_in_two_places_is_one_block() -> None:
    model = tiny_model("llama")
    model.model.layers[1] = model.model.layers[0]
    assert not any(layer.tied for layer in read_layers(model).linears)


def test_each_name_that_fits_nothing_is_named_with_the_nearest() -> None:
    layers = read_layers(tiny_model("llama"))
    with pytest.raises(ModelError) as caught:
        layers.select(["q_proj", "k_prj", "w9"], setting="method.lora.target_modules")
    problem = caught.value.problem
    assert "'k_prj', 'w9' in method.lora.target_modules" in problem
    assert "Did you mean 'k_proj'?" in problem
    assert "'q_proj'" not in problem
    assert "v_proj" in caught.value.allowed
    with pytest.raises(ModelError, match="the empty target_modules"):
        layers.select([])
    with pytest.raises(ModelError) as caught:
        layers.select("q_proj")
    assert "target_modules: [q_proj]" in caught.value.action


class _Router(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x).softmax(-1), None


class _Spelled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T + self.bias


def test_a_class_that_inherits_from_a_linear_layer_counts_if_it_computes_one() -> None:
    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj = _Router(32, 48)
    model.model.layers[1].mlp.up_proj = _Spelled(32, 48)
    layers = read_layers(model)
    assert layers.others["model.layers.0.mlp.up_proj"] == "_Router"
    names = {layer.name for layer in layers.linears}
    assert "model.layers.1.mlp.up_proj" in names
    assert "model.layers.0.mlp.up_proj" not in names


def test_a_method_that_trains_more_than_it_announces_is_refused() -> None:
    model = tiny_task_model("llama", TINY_TASKS)
    shape, attached = attach(targeting("lora", ["q_proj"]), model)
    method = build_method(parse_method(targeting("lora", ["k_proj"])))
    with pytest.raises(ModelError, match=r"trains 256 parameters \(lora 256\) and announces 192"):
        check_count(method, shape, attached)


def test_layers_whose_weight_is_read_without_a_call_are_left_out() -> None:
    """Mamba's fused kernels would leave their update out without a word."""
    layers = read_layers(tiny_model("mamba"))
    names = {layer.name.rpartition(".")[2] for layer in layers.select("all-linear")}
    assert names == {"in_proj"}
    with pytest.raises(ModelError, match=r"x_proj \(the model reads its weight without calling it"):
        layers.select(["x_proj"])


def test_a_reading_behind_a_decorator_is_found() -> None:
    """Transformers 5.15 wraps Mamba's forward in a function that doesn't name it."""

    def decorated(function: Any) -> Any:
        return lambda *given: function(*given)

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.called, self.read = nn.Linear(4, 4), nn.Linear(4, 4)

        @decorated
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.called(x) @ (self.read.weight)
            return hidden

    model = tiny_model("llama")
    model.add_module("fused", Fused())
    layers = read_layers(model)
    assert "fused.called" in {layer.name for layer in layers.linears}
    assert "fused.read" in layers.others


def test_a_dtype_that_is_looked_up_is_no_reading() -> None:
    names = {layer.name.rpartition(".")[2] for layer in read_layers(tiny_model("t5")).linears}
    assert "wo" in names


def test_lora_trains_a_state_space_model() -> None:
    _, attached = attach({"name": "lora", "r": 2}, tiny_task_model("mamba"))
    attached(batch_of(attached.base)).loss.backward()
    trained = {name for name, p in attached.named_parameters() if p.grad is not None}
    assert trained
    assert all("in_proj" in name for name in trained)
