"""The prefix network on contexts: what it adds, which layers see them, what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from peml.errors import ConfigError, ModelError
from peml.export import load_model, save_model
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.context.network import ContextNetwork
from peml.methods.context.part import ContextPart
from peml.methods.registry import build_method, parse_method
from peml.methods.shape import read_shape
from peml.prefix.genotype import Genotype
from peml.prefix.network import PrefixNetwork
from peml.prefix.prefix import Prefix
from peml.prefix.supernet import PrefixSupernet
from peml.testing import TINY_ROWS, MethodSuite, batch_of, tiny_task_model
from peml.testing.answers import scores_of
from peml.testing.tasks import tasks_with_contexts
from tests.methods.test_prefix_search import Rows

_WIDTH = 8
_PREFIX = {"width": _WIDTH, "cells": 2, "operations": ["skip", "linear", "self-attention"]}
# The cells' last layers start at zero: what is before them comes a step later still.
_LATER = ("network.embeddings", "network.norm.*", "network.head.*", "embeddings.*")


def section(**settings: Any) -> dict[str, Any]:
    held = {"name": "peml", "context": {}, "lora": {"r": 2}, "prefix": _PREFIX}
    return held | settings


def attached(family: str = "llama", genotype: Genotype | None = None, **settings: Any) -> Any:
    model = tiny_task_model(family, tasks_with_contexts())

    def calibrate() -> None:
        model(batch_of(model))

    context = AttachContext(0, calibrate, genotype=genotype)
    method = build_method(parse_method(section(**settings)))
    return method.attach(model, context).eval()


def moved(model: AttachedModel) -> AttachedModel:
    """As after some training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for group in model.groups():
            for parameter in group.parameters:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def parts_of(model: AttachedModel) -> tuple[ContextPart, ContextNetwork]:
    contexts, network = model.parts["context"], model.parts["prefix"]
    assert isinstance(contexts, ContextPart)
    assert isinstance(network, ContextNetwork)
    return contexts, network


def genotype(*layers: bool) -> Genotype:
    shape = attached(search={"mode": "none"}).parts["prefix"].network.shape
    longest = max(read_shape(tiny_task_model("llama", tasks_with_contexts())).contexts)
    fixed = Genotype.fixed_mlp(shape, length=longest, width=8)
    return fixed.model_copy(update={"layers": layers})


class TestPemlOnContexts(MethodSuite):
    settings = parse_method(section(search={"mode": "none"}))
    families = ("bert", "llama")
    identity_at_start = False  # rows see the context from the first step on
    learns_first = ("*.lora_B.*", "added.prefix.network.head.last.weight")
    learns_later = ("*.lora_*", *(f"added.prefix.{name}" for name in _LATER),
                    "*.cells.0.operation.last.*")  # fmt: skip


@pytest.mark.parametrize("of", ["frozen", "adapted"])
def test_untrained_it_is_the_computed_context(of: str) -> None:
    model = attached(search={"mode": "none"}, context={"of": of})
    bare = build_method(parse_method({"name": "lora+context", "context": {"of": of}}))
    base = tiny_task_model("llama", tasks_with_contexts())
    plain = bare.attach(base, AttachContext(0, lambda: None)).eval()
    batch = batch_of(base, TINY_ROWS, "score")
    torch.testing.assert_close(scores_of(model, batch), scores_of(plain, batch))
    contexts, network = parts_of(moved(model))
    assert not torch.allclose(scores_of(model, batch), scores_of(plain, batch), atol=1e-3)
    held = contexts.static_contexts()
    with network.disabled():
        computed = contexts.static_contexts()
    for task, prefix in held.items():  # each its own length, and the first position as it was
        difference = prefix.tensor - computed[task].tensor
        assert difference.shape[3] == len(contexts.tokens[task])
        assert difference[..., 0, :].abs().max() < 1e-6
        assert difference[..., 1:, :].abs().amax(-1).min() > 1e-4
    assert len({prefix.length for prefix in held.values()}) > 1


def test_positions_are_dropped_in_training_and_never_the_first() -> None:
    _, network = parts_of(attached(search={"mode": "none"}, prefix={**_PREFIX, "dropout": 0.5}))
    shape = network.network.shape
    size = (shape.layers, 2, shape.kv_heads, len(network.embeddings[0]), shape.head_dim)
    context = Prefix(torch.randn(size), (True,) * shape.layers)
    first = context.tensor[..., :1, :]
    torch.manual_seed(0)
    kept = [network.train().add(0, context).tensor for _ in range(5)]
    assert all(torch.allclose(tensor[..., :1, :], first, atol=1e-6) for tensor in kept)
    assert max(tensor.shape[3] for tensor in kept) < context.length
    assert network.eval().add(0, context).length == context.length


def test_rows_see_no_context_in_a_layer_that_is_off(tmp_path: Path) -> None:
    model = moved(attached(genotype=genotype(True, False)))
    batch = batch_of(model.base, TINY_ROWS, "score")
    scores = scores_of(model, batch)
    contexts, _ = parts_of(model)
    held = contexts.static_contexts()
    assert {prefix.active for prefix in held.values()} == {(True, False)}
    seen: list[int] = []
    injection = contexts.injection
    assert injection.contexts is not None
    layer_of = injection.contexts.layer

    def noting(index: int, *given: Any) -> Any:
        seen.append(index)
        return layer_of(index, *given)

    injection.contexts.layer = noting  # type: ignore[method-assign,assignment]
    with torch.no_grad():
        model.base(batch)
    assert seen == [0]
    save_model(model, tmp_path / "model", parse_method(section()))
    loaded = load_model(tmp_path / "model")
    torch.testing.assert_close(scores_of(loaded, batch), scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("off", [0, 1])
def test_a_gate_at_zero_hides_the_context(off: int) -> None:
    model = moved(attached())
    _, network = parts_of(model)
    supernet = network.network
    assert isinstance(supernet, PrefixSupernet)
    choices = {name: decision.options[0] for name, decision in supernet.decisions.items()}
    weights = supernet.one_hot({**choices, f"layer.{off}": "off"})
    batch = batch_of(model.base, TINY_ROWS, "score")
    soft: list[Tensor] = []
    for prune in (False, True):
        network.search = cast(Any, _Mixed(supernet, weights, prune))
        soft.append(scores_of(model, batch))
    network.search = None
    network.network = supernet.discretise({**choices, f"layer.{off}": "off"})
    hard = scores_of(model, batch)
    torch.testing.assert_close(soft[1], hard, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(soft[0], hard, atol=1e-4, rtol=1e-5)
    network.search = cast(Any, _Mixed(supernet, supernet.one_hot(choices), prune=False))
    seen = scores_of(model, batch)
    network.search = None
    network.network = supernet.discretise(choices)
    torch.testing.assert_close(seen, scores_of(model, batch), atol=1e-4, rtol=1e-5)
    assert (seen - hard).abs().max() > 0.1


class _Mixed:
    def __init__(self, supernet: PrefixSupernet, weights: Any, prune: bool) -> None:
        self.supernet, self.weights, self.prune = supernet, weights, prune

    def prefix(self, on: Any = None) -> Prefix:
        prefix: Prefix = self.supernet(self.weights, prune=self.prune, on=on)
        return prefix


def test_held_out_rows_decide_which_layers_see_the_contexts() -> None:
    search = {"optimise": "bilevel", "every": 1, "relaxation": "softmax", "lead": 0.0}
    model = moved(attached(search=search))
    assert model.search is not None
    rows = Rows.__new__(Rows)
    rows.model, rows.draws, rows.measured = model, [], []
    rows.batches = [batch_of(model.base)] * 5
    model.search.begin(20, rows)
    _, network = parts_of(model)
    assert isinstance(network.network, PrefixSupernet)
    gates = [d for name, d in network.network.decisions.items() if name.startswith("layer.")]
    assert len(gates) == 2
    model.train()
    model.search.before_step(9)
    assert rows.draws
    assert all(gate.logits.grad is not None and gate.logits.grad.any() for gate in gates)
    with torch.no_grad():
        gates[1].logits.copy_(torch.tensor([-9.0, 9.0]))
        gates[0].logits.copy_(torch.tensor([9.0, -9.0]))
    found, _ = model.search.discretise(20)
    assert found.layers == (True, False)
    assert model.genotype() == found
    assert isinstance(network.network, PrefixNetwork)


def test_the_network_is_as_long_as_the_longest_context_and_counts_every_embedding() -> None:
    model = attached(search={"mode": "none"})
    shape = read_shape(tiny_task_model("llama", tasks_with_contexts()))
    found = model.genotype()
    assert found is not None
    assert found.length == max(shape.contexts)
    _, network = parts_of(model)
    assert [len(rows) for rows in network.embeddings] == list(shape.contexts)


def test_of_a_shared_context_the_embeddings_count_once() -> None:
    shape = read_shape(tiny_task_model("llama", tasks_with_contexts()))
    counts = {}
    for scope in ("task", "shared"):
        settings = section(search={"mode": "none"}, context={"scope": scope})
        method = build_method(parse_method(settings))
        assert method.needs_task_id is (scope == "task")
        counts[scope] = method.count_parameters(replace(shape, contexts=(7, 7, 7)))["prefix"]
    assert counts["task"] - counts["shared"] == 2 * 7 * _WIDTH


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"context": {"draw": "step"}}, "draw: once"),
        ({"context": {"leave_one_out": "exact"}}, "masked"),
        ({"prefix": {"start": "text", "text": "Good."}}, "starts at it"),
        ({"search": {"budget": 5000}}, "embeddings per task"),
        ({"lora_ranks": [2, 4]}, "embeddings per task"),
    ],
)
def test_what_does_not_fit_contexts_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_method(section(**settings))


def test_a_shape_without_contexts_has_no_size_for_it() -> None:
    method = build_method(parse_method(section()))
    with pytest.raises(ModelError, match="doesn't know"):
        method.parameter_range(read_shape(tiny_task_model("llama")))
