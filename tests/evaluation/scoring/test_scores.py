"""Shared scoring against each option alone, in a batch of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from peml.distributed import World
from peml.errors import DataError
from peml.evaluation.scoring.options import score_requests
from peml.evaluation.scoring.planning import plan_groups
from peml.evaluation.scoring.requests import Request, score_alone
from peml.evaluation.scoring.seq2seq import score_decoded
from peml.evaluation.scoring.support import sharing_problem
from peml.evaluation.scoring.trees import score_trees
from peml.evaluation.scoring.trie import Trie
from peml.injection.inject import attach_prefix
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.models import TaskModel
from peml.testing import batch_of, tiny_task_model
from tests.evaluation.scoring.requests import few_shot
from tests.injection.common import with_random_prefix
from tests.worlds import together, worlds

CAUSAL = ["llama", "gpt2", "opt", "qwen3", "phi"]
BUDGETS = [40, 150, 4096]


def attached(name: str, what: str) -> TaskModel:
    """A tiny model with something attached that changes its answers, other for each task."""
    base = tiny_task_model(name).eval()
    if what == "prefix":
        with_random_prefix(attach_prefix(base.backbone))
    elif what == "prompt":
        size = base.backbone.get_input_embeddings().weight.shape[1]
        base.prompt.set(torch.randn(3, size, generator=torch.Generator().manual_seed(0)))
    elif what != "nothing":
        method = build_method(parse_method({"name": what}))
        context = AttachContext(seed=0, calibrate=lambda: base(batch_of(base)))
        model = method.attach(base, context).eval()
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for group in model.groups():
                for parameter in group.parameters:
                    parameter.copy_(torch.randn(parameter.shape, generator=draw) / 3)
            model.prepare()
    return base


def alone(base: TaskModel, requests: list[Request]) -> Tensor:
    """No batch holds more than one option, so none is padded."""
    return score_alone(base, requests, tokens=1)


@contextmanager
def counted(base: TaskModel) -> Iterator[list[dict[str, Any]]]:
    """Keyword arguments of every call of the backbone."""
    calls: list[dict[str, Any]] = []
    hook = base.backbone.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    yield calls
    hook.remove()


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("what", ["nothing", "prefix"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_trees_score_as_options_alone(name: str, what: str, attention: str) -> None:
    base = tiny_task_model(name, attention=attention).eval()
    if what == "prefix":
        with_random_prefix(attach_prefix(base.backbone))
    requests = few_shot()
    expected = alone(base, requests)
    assert sharing_problem(base, 40) is None
    for tokens in BUDGETS:
        for saving in (1, None):
            found = score_trees(base, requests, tokens, saving)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("what", ["prompt", "lora", "mtl-lora", "lora+prefix", "moe-lora"])
def test_trees_score_tasks_mixed_with_whatever_is_attached(name: str, what: str) -> None:
    base = attached(name, what)
    requests = few_shot(tasks=3)
    expected = alone(base, requests)
    plain = alone(attached(name, "nothing"), requests)
    assert (expected - plain).abs().max() > 0.1  # what is attached matters
    assert sharing_problem(base, 40) is None
    for tokens in BUDGETS:
        found = score_trees(base, requests, tokens, saving=1)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("what", ["nothing", "prefix", "prompt", "lora", "mtl-lora"])
def test_decoding_against_one_encoding_scores_as_options_alone(name: str, what: str) -> None:
    base = attached(name, what)
    requests = few_shot(tasks=3)
    expected = alone(base, requests)
    for tokens in BUDGETS:
        found = score_decoded(base, requests, tokens)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_routed_tasks_are_told_apart() -> None:
    """The same tokens asked for two tasks are two answers, so no trunk may serve both."""
    for name in ("llama", "t5"):
        base = attached(name, "mtl-lora")
        first = few_shot(questions=2)
        requests = [Request(r.context, r.option, task) for r in first for task in (0, 1)]
        found = score_requests(base, requests, tokens=200)
        torch.testing.assert_close(found, alone(base, requests), atol=1e-4, rtol=1e-5)
        assert (found[0::2] - found[1::2]).abs().min() > 1e-3


def test_options_of_one_token_take_one_pass() -> None:
    base = attached("llama", "nothing")
    context = few_shot()[0].context
    requests = [Request(context, (token,), 0) for token in (7, 9, 11, 13)]
    expected = alone(base, requests)
    asked = []
    head = base.backbone.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, inputs, __: asked.append(inputs[0].shape))
    with counted(base) as calls:
        found = score_trees(base, requests, tokens=4096)
    handle.remove()
    (call,) = calls
    assert tuple(call["input_ids"].shape) == (1, len(context))
    assert [shape[:2] for shape in asked] == [(1, 4)]  # one hidden state per prediction
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_questions_share_their_examples_through_the_cache() -> None:
    base = attached("llama", "prefix")
    requests = few_shot(examples=60, questions=8, option=1)
    with counted(base) as calls:
        score_trees(base, requests, tokens=400)
    trie = Trie([r.context for r in requests], [0] * len(requests))
    computed = sum(call["input_ids"].numel() for call in calls)
    nodes = trie.nodes(0, len(trie))
    assert computed < 1.5 * nodes  # padding
    assert len(calls) < 5
    assert sum(len(r.context) for r in requests) > 10 * nodes


@pytest.mark.parametrize("tokens", BUDGETS)
def test_passes_stay_within_the_budget_cached_tokens_included(tokens: int) -> None:
    base = attached("gpt2", "nothing")
    requests = few_shot(examples=20, questions=12)
    longest = max(len(r.context) + len(r.option) for r in requests)
    with counted(base) as calls:
        score_trees(base, requests, tokens, saving=1)
    for call in calls:
        rows, _, queries, keys = call["attention_mask"].shape
        assert rows * keys <= max(tokens, longest)
        assert rows * queries * keys <= max(tokens, longest) * longest
    assert len(plan_groups(Trie([r.context for r in requests], [0] * 49), tokens, 1).groups)


def test_an_encoder_reads_each_input_once_and_within_the_budget() -> None:
    base = attached("t5", "nothing")
    requests = few_shot()
    encoded: list[Tensor] = []
    hook = base.backbone.get_encoder().register_forward_pre_hook(
        lambda _, args, kwargs: encoded.append(kwargs["input_ids"]), with_kwargs=True
    )
    with counted(base) as decoded:
        score_decoded(base, requests, tokens=100)
    hook.remove()
    assert sum(len(ids) for ids in encoded) == len({r.context for r in requests})
    assert all(ids.numel() <= 100 for ids in encoded)
    assert sum(len(call["decoder_input_ids"]) for call in decoded) == len(requests)
    assert all(
        len(call["decoder_input_ids"]) * call["encoder_outputs"][0].shape[1] <= 100
        for call in decoded
    )


def test_a_window_that_is_too_short_is_scored_alone() -> None:
    base = tiny_task_model("mistral", attention="sdpa").eval()
    requests = few_shot()
    why = sharing_problem(base, 40)
    assert why is not None
    assert "window of 6" in why
    with pytest.warns(UserWarning, match="one by one.*window of 6"):
        found = score_requests(base, requests, tokens=400)
    torch.testing.assert_close(found, alone(base, requests), atol=1e-4, rtol=0)
    wide = tiny_task_model("mistral", attention="sdpa", sliding_window=40).eval()
    assert sharing_problem(wide, 40) is None
    found = score_requests(wide, requests, tokens=400)
    torch.testing.assert_close(found, alone(wide, requests), atol=1e-4, rtol=0)


def _ignores_trees(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    mask = kwargs["attention_mask"]
    return args, kwargs | {"attention_mask": None if mask.dim() == 4 else mask}


def _forgets_positions(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    places = kwargs.get("position_ids")
    return args, kwargs | {"position_ids": None if places is None else places * 0}


def test_a_model_that_ignores_the_mask_is_found_out() -> None:
    base = attached("llama", "nothing")
    requests = few_shot()
    expected = alone(base, requests)
    base.backbone.register_forward_pre_hook(_ignores_trees, with_kwargs=True)
    assert (score_trees(base, requests, 400) - expected).abs().max() > 0.1
    why = sharing_problem(base, 40)
    assert why is not None
    assert "differ by" in why
    notes: set[str] = set()
    with pytest.warns(UserWarning, match="differ by"):
        found = score_requests(base, requests, 400, notes=notes)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert notes == {f"options are scored one by one, which is slower: {why}"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mistake", [None, _ignores_trees, _forgets_positions])
@pytest.mark.parametrize("what", ["nothing", "prefix"])
def test_rounding_is_told_from_mistakes(what: str, mistake: Any, dtype: torch.dtype) -> None:
    base = tiny_task_model("llama", num_hidden_layers=8, initializer_range=0.5).to(dtype).eval()
    if what == "prefix":
        with_random_prefix(attach_prefix(base.backbone))
    if mistake is not None:
        base.backbone.register_forward_pre_hook(mistake, with_kwargs=True)
    assert (sharing_problem(base, 40) is None) is (mistake is None)


def test_models_without_positions_or_a_cache_are_scored_alone() -> None:
    for name in ("bloom", "mamba"):
        base = tiny_task_model(name).eval()
        requests = few_shot(examples=3, questions=2)
        assert "no p" in str(sharing_problem(base, 20))
        with pytest.warns(UserWarning, match="no p"):
            found = score_requests(base, requests, tokens=400)
        torch.testing.assert_close(found, alone(base, requests), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_an_option_without_tokens_is_refused(name: str) -> None:
    base = attached(name, "nothing")
    with pytest.raises(DataError, match="option of 0 tokens after 2") as caught:
        score_requests(base, [Request((5, 6), (), 0)], tokens=100)
    assert caught.value.allowed
    assert "scoring.end" in caught.value.action


@pytest.mark.parametrize("what", ["nothing", "prompt", "mtl-lora"])
@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_passes_of_trees(what: str, size: int) -> None:
    """Trunks behind trunks, whose own targets count once."""
    base = attached("llama", what)
    requests = [
        *few_shot(examples=30, questions=9),
        Request(few_shot(examples=30)[0].context[:12], (7, 8), 0),
    ]
    expected = score_trees(base, requests, 60, 1)
    passes: list[int] = []

    def score(world: World) -> Tensor:
        mine = copy.deepcopy(base)
        mine.world = world
        mine.backbone.register_forward_hook(lambda *_: passes.append(world.rank))
        return score_trees(mine, requests, 60, 1)

    for found in together([partial(score, world) for world in worlds(size)]):
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert set(passes) == set(range(size))
