"""Text-to-text families against one token at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tokenizers import normalizers
from torch import Tensor

from peml.errors import DataError
from peml.models import TaskModel
from peml.models.families import EncodedSequence
from tests.models.tasks import Row, batch_of, collate, encode, tiny_family, tiny_task_model
from tests.tasks.examples import choice, generation, score, sentiment

TASKS = (
    sentiment(label_words=["negative", "quite positive"]),
    score(scale={"low": 1, "high": 3, "step": 0.5}),
    choice(),
    generation(),
)
ROWS: list[tuple[int, Row]] = [
    (0, {"sentence": "the film was good", "label": 1}),
    (1, {"first": "a man is walking", "second": "a person is moving", "score": 2.6}),
    (2, {"start": "the ball is in", "options": ["the box", "a quick fox", "no"], "answer": 2}),
    (3, {"text": "over the lazy dog", "target": "the quick brown fox"}),
    (0, {"sentence": "bad", "label": 0}),
]
CAUSAL = ["llama", "gpt2", "opt"]
TEXT = ["llama", "gpt2", "opt", "t5", "bart"]


def model(name: str, **config: Any) -> TaskModel:
    return tiny_task_model(name, TASKS, **config)


@torch.no_grad()
def slow_logp(model: TaskModel, sequence: EncodedSequence) -> list[float]:
    """log p of each target token, each from a forward pass that sees only what came before."""
    backbone = model.backbone.double()
    labels = sequence.labels or []
    found = []
    if model.family.name == "causal":
        for place, wanted in enumerate(labels):
            if wanted != -100:
                before = torch.tensor([sequence.input_ids[:place]])
                logits = backbone(input_ids=before).logits[0, -1]
                found.append(float(logits.log_softmax(-1)[wanted]))
        return found
    source = torch.tensor([sequence.input_ids])
    start = backbone.config.decoder_start_token_id
    for place, wanted in enumerate(labels):
        before = torch.tensor([[start, *labels[:place]]])
        logits = backbone(input_ids=source, decoder_input_ids=before).logits[0, -1]
        found.append(float(logits.log_softmax(-1)[wanted]))
    return found


@pytest.mark.parametrize("name", TEXT)
def test_training_losses_are_mean_token_losses_whatever_the_batch(name: str) -> None:
    mixed = model(name)
    batch = batch_of(mixed, ROWS)
    assert not batch.attention_mask.all()
    output = mixed(batch)
    expected = []
    for task, row in ROWS:
        ((sequence,),) = encode(mixed.family, TASKS[task], [row], "train")
        tokens = slow_logp(mixed, sequence)
        expected.append(-sum(tokens) / len(tokens))
    torch.testing.assert_close(
        output.losses.double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-4
    )
    assert output.loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-4)


@pytest.mark.parametrize("name", TEXT)
def test_option_scores_are_log_likelihoods_of_whole_answers(name: str) -> None:
    scored = model(name)
    rows = [row for row in ROWS if row[0] == 2] + [
        (2, {"start": "yes", "options": ["no", "the answer is yes"], "answer": 0})
    ]
    batch = batch_of(scored, rows, "score")
    output = scored(batch)
    scores = scored.predict(output, batch, 2)
    expected = [
        [sum(slow_logp(scored, s)) for s in encode(scored.family, TASKS[2], [row], "score")[0]]
        for _, row in rows
    ]
    for got, wanted in zip(scores, expected, strict=True):
        torch.testing.assert_close(
            got[: len(wanted)].double(), torch.tensor(wanted).double(), rtol=1e-4, atol=1e-3
        )
        assert (got[len(wanted) :] == -math.inf).all()
    # Only the right option is a loss.
    (tokens,) = [slow_logp(scored, encode(scored.family, TASKS[2], [rows[0][1]], "score")[0][2])]
    assert output.losses[0].item() == pytest.approx(-sum(tokens) / len(tokens), rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_regression_answers_with_its_expected_score(name: str) -> None:
    scored = model(name)
    batch = batch_of(scored, [ROWS[1]], "score")
    answer = scored.predict(scored(batch), batch, 1)
    spelled = encode(scored.family, TASKS[1], [ROWS[1][1]], "score")[0]
    assert len(spelled) == 5
    likelihood = torch.tensor([sum(slow_logp(scored, s)) for s in spelled]).softmax(0)
    expected = float(likelihood @ torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0]))
    assert answer.shape == (1,)
    assert answer.item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("given", "spelled"), [(1.0, "1"), (2.6, "2.5"), (2.8, "3"), (3.0, "3")])
def test_a_score_is_trained_as_the_nearest_spelled_one(given: float, spelled: str) -> None:
    family = tiny_family("t5")
    ((sequence,),) = encode(family, TASKS[1], [ROWS[1][1] | {"score": given}], "train")
    assert family.tokenizer.decode(sequence.labels) == f"{spelled}</s>"


@pytest.mark.parametrize("name", CAUSAL)
def test_prompt_is_masked_and_the_answer_closed(name: str) -> None:
    family = tiny_family(name)
    ((sequence,),) = encode(family, TASKS[0], [ROWS[0][1]], "train")
    assert sequence.labels is not None
    answer = [token for token in sequence.labels if token != -100]
    start = len(sequence.labels) - len(answer)
    assert sequence.labels == [-100] * start + sequence.input_ids[start:]
    assert family.tokenizer.decode(sequence.input_ids[:start]) == "<s>the film was good It is"
    assert family.tokenizer.decode(answer) == " quite positive</s>"


def test_an_answer_after_a_space_gets_no_second_one() -> None:
    family = tiny_family("llama")
    task = sentiment(template="{{ sentence }}\nIt is: ")
    ((sequence,),) = encode(family, task, [ROWS[0][1]], "train")
    assert family.tokenizer.decode(sequence.input_ids).endswith("It is: good</s>")


LONG = {"sentence": "the quick brown fox jumps over the lazy dog " * 8 + "END", "label": 1}


@pytest.mark.parametrize("purpose", ["train", "score", "generate"])
def test_a_long_causal_prompt_keeps_its_start_token_its_end_and_its_answer(purpose: str) -> None:
    family = tiny_family("llama", max_length=24)
    task = (
        TASKS[0]
        if purpose != "generate"
        else generation(
            columns={"inputs": ["sentence"], "label": "label"}, template="{{ sentence }} It is"
        )
    )
    row = LONG if purpose != "generate" else LONG | {"label": "x"}
    (sequences,) = encode(family, task, [row], purpose)
    whole = family.tokenizer(f"{LONG['sentence']} It is")["input_ids"]
    assert max(len(sequence.input_ids) for sequence in sequences) == 24
    contexts = []
    for sequence in sequences:
        answer = [t for t in sequence.labels or () if t != -100]
        prompt = sequence.input_ids[: len(sequence.input_ids) - len(answer)]
        contexts.append(prompt)
        assert prompt[0] == family.tokenizer.bos_token_id
        assert prompt[1:] == whole[-len(prompt[1:]) :]
        assert sequence.cut == len(whole) - len(prompt)
        assert answer == sequence.input_ids[len(prompt) :]
    assert all(context == contexts[0] for context in contexts)  # options are compared fairly


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("purpose", ["train", "score"])
def test_an_empty_option_is_refused(name: str, purpose: str) -> None:
    row = {"start": "the ball is in", "options": ["the box", " "], "answer": 0}
    with pytest.raises(DataError, match=r"'ending', row 0 .*option 1 .*from 0.*empty") as caught:
        encode(tiny_family(name), TASKS[2], [row], purpose)
    assert caught.value.allowed
    assert caught.value.action


def test_a_long_seq2seq_prompt_loses_its_beginning() -> None:
    family = tiny_family("t5", max_length=24)
    ((sequence,),) = encode(family, TASKS[0], [LONG], "train")
    whole = family.tokenizer(f"{LONG['sentence']} It is")["input_ids"]
    assert sequence.input_ids == whole[-24:]
    assert sequence.cut == len(whole) - 24


@pytest.mark.parametrize("purpose", ["train", "score"])
@pytest.mark.parametrize(("name", "around"), [("bert", 4), ("llama", 3), ("t5", 1)])
def test_only_an_option_longer_than_the_model_is_cut(name: str, around: int, purpose: str) -> None:
    family, task = tiny_family(name, max_length=24), choice(template="{{ start }}")
    cuts = []
    for count in (24 - around, 25 - around):
        row = {"start": "the ball " * 30, "options": ["x" * count, "a"], "answer": 0}
        (sequences,) = encode(family, task, [row], purpose)
        assert "x" * (24 - around) in family.tokenizer.decode(answer(sequences[0]))
        assert max(len(s.input_ids) for s in sequences) == 24
        assert len([t for t in sequences[0].labels or () if t != -100]) <= 24
        cuts.append(sequences[0].cut)
    assert cuts[1] == cuts[0] + 1


def answer(sequence: EncodedSequence) -> list[int]:
    """Target tokens, or all an encoder reads."""
    return [t for t in sequence.labels or sequence.input_ids if t != -100]


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_an_option_that_the_tokenizer_drops_is_refused(name: str) -> None:
    family = tiny_family(name)
    family.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    row = {"start": "the ball", "options": ["a", "\u200b"], "answer": 0}
    with pytest.raises(DataError, match=r"option 1 \(from 0\), .*u200b.*no tokens in the model"):
        encode(family, TASKS[2], [row], "score")


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_long_answer_stays_within_the_limit_and_counts_as_cut(name: str) -> None:
    family = tiny_family(name, max_length=16)
    row = {"text": "the dog", "target": "the quick brown fox jumps over the lazy dog " * 4}
    ((sequence,),) = encode(family, TASKS[3], [row], "train")
    labels = [token for token in sequence.labels or () if token != -100]
    assert len(sequence.input_ids) <= 16
    assert 0 < len(labels) <= 16
    assert (
        labels[0]
        == family.tokenizer(" the" if name == "llama" else "the", add_special_tokens=False)[
            "input_ids"
        ][0]
    )
    assert sequence.cut > 0
    if name == "llama":
        assert sequence.input_ids[0] == family.tokenizer.bos_token_id  # something to answer to


def prompts(model: TaskModel) -> list[tuple[int, list[EncodedSequence]]]:
    texts = ["the dog", "the quick brown fox jumps over", "is this", "a man is walking and a fox"]
    rows = [{"text": text, "target": ""} for text in texts]
    return [(3, encoded) for encoded in encode(model.family, TASKS[3], rows, "generate")]


@pytest.mark.parametrize("name", TEXT)
def test_generation_in_a_batch_equals_one_by_one(name: str) -> None:
    # A random T5 whose embeddings are tied and small repeats its padding.
    talkative = {"tie_word_embeddings": False, "initializer_factor": 2.0}
    generating = model(name, **(talkative if name == "t5" else {}))
    left = name in CAUSAL
    encoded = prompts(generating)
    batch = collate(generating.family, encoded, left=left)
    assert not batch.attention_mask.all()
    together = generating.generate(batch, max_new_tokens=6)
    alone = [
        generating.generate(collate(generating.family, [one]), max_new_tokens=6)[0]
        for one in encoded
    ]
    assert together == alone
    assert len(set(together)) > 1


def test_generation_is_greedy_and_gives_only_what_is_new() -> None:
    generating = model("llama")
    (one, *_) = prompts(generating)
    batch = collate(generating.family, [one])
    ids = batch.input_ids
    for _ in range(5):
        nxt: Tensor = generating.backbone(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
        if nxt.item() == generating.family.tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, nxt], 1)
    new = ids[:, batch.input_ids.shape[1] :]
    expected = generating.family.tokenizer.decode(new[0]).strip()
    assert generating.generate(batch, max_new_tokens=5) == [expected]


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_text_models_have_no_heads(name: str) -> None:
    assert model(name).heads is None
