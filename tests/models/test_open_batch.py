"""Texts that join and leave a batch are written as if each were alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from peml.data import TaskBatch
from peml.data.batching import Collator
from peml.injection.inject import attach_prefix
from peml.models import TaskModel
from peml.models.open_batch import OpenBatch, can_join
from peml.prefix.prefix import Prefix
from tests.models.tasks import tiny_task_model
from tests.tasks.examples import generation

FIRST, SECOND, THIRD = [7, 30, 12, 44, 9], [21, 8], [5, 17, 33, 11, 40, 6, 25]
NAMES = ("llama", "gpt2", "gpt-neox", "opt", "mistral", "gemma2")


def model_of(name: str) -> TaskModel:
    return tiny_task_model(name, (generation(), generation(name="other"))).eval()


def prompts(base: TaskModel, *texts: Sequence[int]) -> TaskBatch:
    columns: dict[str, list[Any]] = {
        "input_ids": [[list(ids)] for ids in texts],
        "token_type_ids": [[] for _ in texts],
        "labels": [[] for _ in texts],
        "targets": [[1.0] for _ in texts],
    }
    collate = Collator(base.family.tokenizer.pad_token_id, left=True)
    return collate(columns, [0] * len(texts), torch.arange(len(texts)).numpy())


def with_prefix(base: TaskModel) -> None:
    injection = attach_prefix(base.backbone)
    shape = injection.shape
    size = (shape.layers, 2, shape.kv_heads, 3, shape.head_dim)
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(5))
    injection.set(Prefix(tensor, (True,) * shape.layers))


def with_prompt(base: TaskModel) -> None:
    width = base.backbone.get_input_embeddings().embedding_dim
    base.prompt.set(torch.randn(2, width, generator=torch.Generator().manual_seed(6)))


def alone(base: TaskModel, ids: Sequence[int]) -> torch.Tensor:
    """The next token's logits, (vocabulary,), without a cache."""
    given = torch.tensor([ids])
    inputs = {"input_ids": given}
    if base.prompt.vectors is not None:
        embedded = base.backbone.get_input_embeddings()(given)
        inputs = {"inputs_embeds": torch.cat([base.prompt.vectors[None], embedded], 1)}
    logits: torch.Tensor = base.backbone(**inputs, use_cache=False).logits[0, -1]
    return logits


@pytest.mark.parametrize("attach", [lambda base: None, with_prefix, with_prompt])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_texts_come_and_go(name: str, attach: Callable[[TaskModel], None]) -> None:
    base = model_of(name)
    attach(base)
    assert can_join(base)
    written = [[*FIRST], [*SECOND], [*THIRD]]

    def agree(logits: torch.Tensor, *numbers: int) -> list[int]:
        wanted = torch.stack([alone(base, written[number]) for number in numbers])
        torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-4)
        tokens = [int(token) for token in logits.argmax(1)]
        for number, token in zip(numbers, tokens, strict=True):
            written[number].append(token)
        return tokens

    batch = OpenBatch(base)
    last = agree(batch.join(prompts(base, FIRST)), 0)
    last = agree(batch.step(last), 0)
    last += agree(batch.join(prompts(base, SECOND, THIRD)), 1, 2)  # one longer, one shorter
    last = agree(batch.step(last), 0, 1, 2)
    batch.keep([1])
    last = agree(batch.step(last[1:2]), 1)
    batch.keep([])
    written[0] = [*FIRST]
    agree(batch.join(prompts(base, FIRST)), 0)


def test_routed_layers_get_the_task_of_each_text() -> None:
    base = model_of("llama")
    batch = OpenBatch(base)
    batch.join(prompts(base, FIRST))
    other = replace(prompts(base, SECOND, THIRD), task_ids=torch.tensor([1, 0]))
    batch.join(other)
    assert base.routing.rows(2).tolist() == [1, 0]
    batch.step([4, 4, 4])
    assert base.routing.rows(3).tolist() == [0, 1, 0]
    batch.keep([1])
    batch.step([4])
    assert base.routing.rows(1).tolist() == [1]


def test_a_model_that_ignores_positions_or_has_an_encoder_takes_none() -> None:
    assert not can_join(tiny_task_model("t5", (generation(),)).eval())
    base = model_of("llama")
    forward = base.backbone.forward

    def ignorant(position_ids: object = None, **inputs: object) -> object:
        return forward(**inputs)

    base.backbone.forward = ignorant
    assert not can_join(base)
