"""A prompt in front of the input embeddings: the same as tokens with those embeddings."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from peml.data import TaskBatch
from peml.errors import ModelError
from peml.models import TaskModel, check_prompt
from peml.models.loading import enable_checkpointing
from peml.models.prompt import build_inputs
from peml.models.room import check_generation
from tests.models.tasks import Row, batch_of, collate, encode, tiny_family, tiny_task_model
from tests.tasks.examples import choice, generation, score, sentiment

ENCODERS = ["bert", "roberta", "distilbert", "electra"]
CAUSAL = ["llama", "gpt2", "opt", "mistral", "gemma2", "bloom"]
SEQ2SEQ = ["t5", "bart"]
MODELS = [*ENCODERS, *CAUSAL, *SEQ2SEQ]

ROWS: list[tuple[int, Row]] = [
    (0, {"sentence": "the film was good", "label": 1}),
    (1, {"first": "a man is walking", "second": "a person is moving", "score": 2.6}),
    (2, {"start": "the ball is in", "options": ["the box", "a quick fox", "no"], "answer": 2}),
    (0, {"sentence": "bad", "label": 0}),
]
TASKS = (sentiment(), score(), choice())
# Not one of them special, since some models count positions by what is padding.
IDS = torch.tensor([40, 77, 300, 41, 200])


def model(name: str, tasks: Any = TASKS, **options: Any) -> TaskModel:
    if name == "bart":
        options["scale_embedding"] = True
    if name == "distilbert":
        options["dropout"] = 0.0
    if name == "bloom":
        options["initializer_range"] = 0.2
    return tiny_task_model(name, tasks, **options)


def batch(of: TaskModel, purpose: str = "train") -> TaskBatch:
    made = batch_of(of, ROWS, purpose)
    if "token_type_ids" not in of.backbone.forward.__code__.co_varnames:
        made = dataclasses.replace(made, token_type_ids=None)
    return made


def embedded(of: TaskModel) -> Tensor:
    with torch.no_grad():
        vectors: Tensor = of.backbone.get_input_embeddings()(IDS)
    return vectors


def with_ids(batch: TaskBatch, *, causal: bool) -> TaskBatch:
    """The batch with real tokens where the prompt would be."""

    def in_front(rows: Tensor | None, values: Any) -> Tensor | None:
        if rows is None:
            return None
        made = torch.as_tensor(values).expand(len(rows), len(IDS)).to(rows.dtype)
        return torch.cat([made, rows], 1)

    ids, mask = in_front(batch.input_ids, IDS), in_front(batch.attention_mask, 1)
    assert ids is not None
    assert mask is not None
    return dataclasses.replace(
        batch,
        input_ids=ids,
        attention_mask=mask,
        token_type_ids=in_front(batch.token_type_ids, 0),
        labels=in_front(batch.labels, -100) if causal else batch.labels,
    )


@pytest.mark.parametrize("purpose", ["train", "score"])
@pytest.mark.parametrize("name", [*CAUSAL, *SEQ2SEQ])
def test_a_prompt_is_as_good_as_tokens_in_front(name: str, purpose: str) -> None:
    prompted = model(name)
    rows = batch(prompted, purpose)
    assert not rows.attention_mask.all()
    plain = prompted(rows)
    reference = prompted(with_ids(rows, causal=name in CAUSAL))
    prompted.prompt.set(embedded(prompted))
    output = prompted(rows)
    torch.testing.assert_close(output.losses, reference.losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.scores, reference.scores, rtol=1e-4, atol=1e-5)
    assert (output.scores - plain.scores).abs().max() > 1e-2


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("name", ENCODERS)
def test_heads_pool_the_tokens_and_not_the_prompt(name: str, pooling: str) -> None:
    prompted = model(name, pooling=pooling)
    rows = batch(prompted)
    long = with_ids(rows, causal=False)
    hidden = prompted.backbone(**build_inputs(prompted.backbone, long, None)).last_hidden_state
    tokens = hidden[:, len(IDS) :]
    expected = []
    for states, mask in zip(tokens, rows.attention_mask, strict=True):
        real = states[mask.bool()]
        expected.append(real[0] if pooling == "first" else real.mean(0))
    heads: Any = prompted.heads
    prompted.prompt.set(embedded(prompted))
    output = prompted(rows)
    torch.testing.assert_close(output.scores, heads(torch.stack(expected)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_mixed_batch_says_what_each_row_alone_says(name: str) -> None:
    prompted = model(name)
    prompted.prompt.set(embedded(prompted) + 0.1)
    together = prompted(batch(prompted)).losses
    alone = [prompted(_one(prompted, row)).losses for row in ROWS]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def _one(of: TaskModel, row: tuple[int, Row]) -> TaskBatch:
    made = batch_of(of, [row])
    if "token_type_ids" not in of.backbone.forward.__code__.co_varnames:
        made = dataclasses.replace(made, token_type_ids=None)
    return made


@pytest.mark.parametrize("name", MODELS)
def test_only_the_prompt_learns_and_every_vector_of_it_does(name: str) -> None:
    prompted = model(name)
    vectors = embedded(prompted).requires_grad_()
    prompted.prompt.set(vectors)
    prompted(batch(prompted)).loss.backward()
    assert vectors.grad is not None
    learns = vectors.grad.abs().sum(1) > 0
    # In two layers with a window of 6 the first vector is out of sight of what is scored.
    assert learns[1:].all() if name == "mistral" else learns.all()
    assert all(p.grad is None for p in prompted.backbone.parameters())


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_checkpointing_gives_the_same_gradient(name: str) -> None:
    found = []
    for checkpointed in (False, True):
        prompted = model(name).train()
        if checkpointed:
            enable_checkpointing(prompted.backbone)
        for module in prompted.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        vectors = embedded(prompted).requires_grad_()
        prompted.prompt.set(vectors)
        prompted(batch(prompted)).loss.backward()
        assert vectors.grad is not None
        found.append(vectors.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)
    assert found[0].abs().sum() > 0


def test_switched_off_it_is_the_plain_model_and_back_on_it_is_itself() -> None:
    prompted = model("bert")
    rows = batch(prompted)
    plain = prompted(rows).scores
    prompted.prompt.set(embedded(prompted))
    on = prompted(rows).scores
    with prompted.prompt.disabled():
        assert torch.equal(prompted(rows).scores, plain)
    with pytest.raises(RuntimeError), prompted.prompt.disabled():
        raise RuntimeError
    assert torch.equal(prompted(rows).scores, on)
    prompted.prompt.set(None)
    assert torch.equal(prompted(rows).scores, plain)


def test_a_copied_model_has_a_prompt_of_its_own() -> None:
    prompted = model("bert")
    prompted.prompt.set(embedded(prompted))
    other = copy.deepcopy(prompted)
    other.prompt.set(None)
    assert prompted.prompt.vectors is not None


def test_half_precision_models_take_a_float32_prompt() -> None:
    prompted = model("llama")
    prompted.backbone.to(torch.bfloat16)
    vectors = embedded(prompted).float().requires_grad_()
    prompted.prompt.set(vectors)
    prompted(batch(prompted)).loss.backward()
    assert vectors.grad is not None
    assert vectors.grad.dtype == torch.float32
    assert torch.isfinite(vectors.grad).all()


def test_routed_layers_know_which_positions_are_real() -> None:
    prompted = model("llama")
    rows = batch(prompted)
    prompted.prompt.set(embedded(prompted))
    prompted(rows)
    sequences, length = rows.input_ids.shape
    mask = prompted.routing.mask("inputs", sequences, length + len(IDS))
    assert mask is not None
    assert mask[:, : len(IDS)].all()
    assert torch.equal(mask[:, len(IDS) :], rows.attention_mask)


TEXTS = ("the dog", "the quick brown fox jumps over", "is this", "a man is walking and a fox")


def generating(name: str) -> tuple[TaskModel, list[Any]]:
    # A random T5 whose embeddings are tied and small repeats its padding.
    talkative = {"tie_word_embeddings": False, "initializer_factor": 2.0}
    made = model(name, (generation(),), **(talkative if name == "t5" else {}))
    rows = [{"text": text, "target": ""} for text in TEXTS]
    encoded = encode(made.family, made.tasks[0], rows, "generate")
    made.prompt.set(embedded(made))
    return made, [(0, sequences) for sequences in encoded]


@pytest.mark.parametrize("name", [*CAUSAL, *SEQ2SEQ])
def test_generation_is_greedy_whatever_the_padding(name: str) -> None:
    made, encoded = generating(name)
    rows = collate(made.family, encoded, left=name in CAUSAL)
    assert not rows.attention_mask.all()
    texts = made.generate(rows, max_new_tokens=6)
    assert texts == [_greedy(made, sequences[0].input_ids, 6) for _, sequences in encoded]
    assert len(set(texts)) > 1
    with made.prompt.disabled():
        assert made.generate(rows, max_new_tokens=6) != texts


@torch.no_grad()
def _greedy(made: TaskModel, ids: list[int], steps: int) -> str:
    """One row, token by token, each from a whole forward pass over real tokens in front."""
    tokenizer, backbone = made.family.tokenizer, made.backbone
    source = torch.tensor([[*IDS.tolist(), *ids]])
    causal = made.family.name == "causal"
    made_so_far = source if causal else torch.tensor([[backbone.config.decoder_start_token_id]])
    start = made_so_far.shape[1]
    for _ in range(steps):
        inputs = {"input_ids": source, "decoder_input_ids": made_so_far}
        logits = backbone(**({"input_ids": made_so_far} if causal else inputs)).logits[0, -1]
        made_so_far = torch.cat([made_so_far, logits.argmax()[None, None]], 1)
        if made_so_far[0, -1] == tokenizer.eos_token_id:
            break
    text: str = tokenizer.decode(made_so_far[0, start:], skip_special_tokens=True)
    return text.strip()


def test_learned_positions_have_to_hold_prompt_and_input() -> None:
    family = tiny_family("bert", max_length=24)
    family.positions = 32
    check_prompt(family, 8)
    with pytest.raises(ModelError, match=r"9 vectors .* 24 tokens .* 32 positions"):
        check_prompt(family, 9)
    family.positions = None
    check_prompt(family, 10_000)


def test_generation_past_the_last_position_counts_the_prompt() -> None:
    family = tiny_family("gpt2", max_length=24)
    family.positions = 40
    check_generation(family, [generation()], 16)
    check_generation(family, [generation()], 8, 8)
    with pytest.raises(ModelError, match="at most 8 new tokens"):
        check_generation(family, [generation()], 9, 8)
