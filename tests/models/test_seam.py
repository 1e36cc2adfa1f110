"""Tokens of an answer are those of the joined text, as lm-evaluation-harness draws them."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken

from peml.errors import DataError
from peml.models.families import CausalFamily, EncodedSequence, Seq2SeqFamily
from peml.tasks import Task
from peml.tasks.template import join_answer
from tests.models.tasks import encode
from tests.models.tokenizers import KINDS, small_tokenizer
from tests.tasks.examples import choice, generation, sentiment

ENDS = ["", " ", ":", ": ", ":\n", "\n\n", "\t", " \n ", ")"]
PROMPTS = ["the film was good\nMood", "<s>the film was good\nMood", "", "\n", "é"]
OPTIONS = ["positive", " positive", "quite good", "not\ngood", "pos", "12", "positively", "Q: no"]


def harness(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """lm-evaluation-harness 0.4.13: TemplateLM.loglikelihood, _encode_pair, HFLM.tok_encode."""
    prefix = tokenizer.bos_token_id
    prefix = tokenizer.eos_token_id if prefix is None else prefix

    def tok_encode(text: str, add_special_tokens: bool | None = None) -> list[int]:
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and text.startswith(tokenizer.decode(prefix)):
            special["add_special_tokens"] = False
        ids: list[int] = tokenizer.encode(text, **special)
        return ids

    if context == "":
        found = tok_encode(continuation, add_special_tokens=False)
        return ([prefix], found) if prefix != found[0] else (found[:1], found[1:])
    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    before = tok_encode(context)
    return before, tok_encode(context + continuation)[len(before) :]


def family(tokenizer: Any, max_length: int = 256) -> CausalFamily:
    return CausalFamily(tokenizer, max_length=max_length, pooling="mean")


def task(**fields: Any) -> Task:
    return choice(template="{{ start }}", **fields)


def split(sequence: EncodedSequence) -> tuple[list[int], list[int]]:
    """Context and answer, its end token left out."""
    labels = sequence.labels or []
    answer = [token for token in labels if token != -100]
    return sequence.input_ids[: len(labels) - len(answer)], answer[:-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", [{}, {"starts": False}, {"starts": False, "bos_token": None}])
def test_tokens_are_the_harness_s(kind: str, special: dict[str, Any]) -> None:
    tokenizer = small_tokenizer(kind, **special)
    made = family(tokenizer)
    generated = generation(columns={"inputs": ["start"], "label": "x"}, template="{{ start }}")
    start = [tokenizer.eos_token_id if tokenizer.bos_token is None else tokenizer.bos_token_id]
    for prompt in [one + end for one in PROMPTS for end in ENDS]:
        wanted = {}
        for option in OPTIONS:
            context, answer = harness(tokenizer, prompt, join_answer(prompt, option))
            wanted[tuple(answer)] = option, (context or start, answer)
        wanted.pop((), None)  # to the tokenizer, and refused
        options = [option for option, _ in wanted.values()]
        row = {"start": prompt, "options": options, "answer": 1}
        (scored,) = encode(made, task(), [row], "score")
        for sequence, (_, expected) in zip(scored, wanted.values(), strict=True):
            assert split(sequence) == expected, (prompt, sequence)
        ((trained,),) = encode(made, task(), [row], "train")
        assert trained == scored[1]
        row = {"start": prompt, "x": options[1]}
        ((target,),) = encode(made, generated, [row], "train")
        assert (target.input_ids, target.labels) == (trained.input_ids, trained.labels)
        ((asked,),) = encode(made, generated, [row], "generate")
        assert asked.input_ids == split(trained)[0]
        if not special:
            assert asked.input_ids.count(start[0]) == 1


def test_an_answer_is_tokenised_behind_its_prompt() -> None:
    """By itself it would get a space in front, or none of the line break's letters."""
    made = family(small_tokenizer("prepend"))
    spell = made.tokenizer.convert_ids_to_tokens
    for end, context, answer in (
        (":", "▁Mood:", ["▁positive"]),
        (": ", "▁Mood:", ["▁positive"]),
        (":\n", "▁Mood:", ["<0x0A>", "positive"]),
    ):
        row = {"start": f"Mood{end}", "options": ["positive", "no"], "answer": 0}
        ((sequence,),) = encode(made, task(), [row], "train")
        before, after = split(sequence)
        assert "".join(spell(before)) == f"<s>{context}"
        assert spell(after)[0] == answer[0]
        assert "".join(spell(after)) == "".join(answer)


@pytest.mark.parametrize("bos", [True, False])
def test_what_the_tokenizer_puts_behind_every_text_is_left_out(bos: bool) -> None:
    plain = family(small_tokenizer("byte level", starts=bos))
    closing = family(small_tokenizer("byte level", starts=bos, ends=True))
    row = {"start": "Mood:</s>", "options": ["positive", "no"], "answer": 0}
    for purpose in ("train", "score"):
        assert encode(closing, task(), [row], purpose) == encode(plain, task(), [row], purpose)
    asked = generation(columns={"inputs": ["start"], "label": "answer"}, template="{{ start }}")
    ((said,),) = encode(closing, asked, [row | {"answer": "x"}], "generate")
    end = closing.tokenizer.eos_token_id
    assert said.input_ids.count(end) == 1, "a template may end with the end token itself"


def test_an_empty_prompt_without_a_token_to_start_with_is_refused() -> None:
    made = family(small_tokenizer("unigram", starts=False, bos_token=None, eos_token=None))
    row = {"start": " ", "options": ["positive", "no"], "answer": 0}
    with pytest.raises(DataError, match="and the model's tokenizer has no start or end token"):
        encode(made, task(), [row], "score")


def test_options_that_disappear_in_the_seam_are_refused() -> None:
    """Nothing keeps a tokenizer from one token for a prompt's end and an answer."""
    tokenizer = small_tokenizer("prepend")
    tokenizer.add_tokens([AddedToken("Mood: no", normalized=False)])
    row = {"start": "Mood:", "options": ["positive", "no"], "answer": 0}
    with pytest.raises(DataError, match=r"option 1 \(from 0\), 'no', has no tokens in the model's"):
        encode(family(tokenizer), task(), [row], "score")


def seq2seq(tokenizer: Any) -> Seq2SeqFamily:
    return Seq2SeqFamily(tokenizer, max_length=64, pooling="mean")


@pytest.mark.parametrize("make", [family, seq2seq])
@pytest.mark.parametrize("purpose", ["train", "score"])
def test_options_of_the_same_tokens_are_refused(make: Any, purpose: str) -> None:
    made = make(small_tokenizer("wordpiece"))
    words = sentiment(label_words=["Good", "good"])
    with pytest.raises(DataError) as caught:
        encode(made, words, [{"sentence": "a film", "label": 1}], purpose)
    message = str(caught.value)
    assert "options 0 and 1 (from 0), 'Good' and 'good', have the same tokens" in message
    assert "tokenizer: good." in message
    row = {"start": "a", "options": ["yes", "\u2603", "no", "\u2708"], "answer": 0}
    with pytest.raises(DataError, match=r"options 1 and 3 .*<unk>"):
        encode(made, task(), [row], purpose)
    twice = row | {"options": ["yes", "no", "no"]}
    encode(made, task(), [twice], purpose)  # the data's own; `peml tasks check` counts such rows


def test_in_training_label_words_are_compared_once() -> None:
    """The others of a task with many label words are not tokenised for every row."""
    made = family(small_tokenizer("byte level"))
    asked = []
    tokenise = type(made.tokenizer).__call__

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, text: Any, **options: Any) -> Any:
            asked.append(len(text))
            return tokenise(tokenizer, text, **options)

    tokenizer, made.spelling.tokenizer = made.tokenizer, Counting()
    words = sentiment(labels=["a", "b", "c"], label_words=["yes", "no", "maybe"])
    rows = [{"sentence": f"a film {number}", "label": number} for number in range(3)]
    encode(made, words, rows, "train")
    assert [count for count in asked if count > 1][-3:] == [4, 2, 2]


@pytest.mark.parametrize("make", [family, seq2seq])
def test_targets_that_come_back_otherwise_are_marked(make: Any) -> None:
    made = make(small_tokenizer("unigram"))
    row = {"start": "a man", "options": ["yes", "not \u2603"], "answer": 0}
    (scored,) = encode(made, task(), [row], "score")
    assert [sequence.altered for sequence in scored] == [False, True]
    ((trained,),) = encode(made, task(), [row], "train")
    assert not trained.altered
    for text, altered in (("a  man\nis", False), ("a \u2603", True)):
        ((sequence,),) = encode(made, generation(), [{"text": "a", "target": text}], "train")
        assert sequence.altered is altered


def test_a_long_prompt_keeps_its_end_and_the_answer_whole() -> None:
    made = family(small_tokenizer("prepend"), max_length=24)
    prompt = "the good film was fine " * 9 + "Mood:\n"
    row = {"start": prompt, "options": ["positive", "no"]}
    (scored,) = encode(made, task(), [row | {"answer": 0}], "score")
    whole, answer = harness(made.tokenizer, prompt, "positive")
    context, kept = split(scored[0])
    assert kept == answer
    assert context[0] == made.tokenizer.bos_token_id
    assert context[1:] == whole[-len(context) + 1 :]
    assert max(len(sequence.input_ids) for sequence in scored) == 24
    assert scored[0].cut == len(whole) - len(context)
    assert split(scored[1])[0] == context


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"wordpiece"}))
@pytest.mark.parametrize("end", [":", ":\t"])
def test_an_answer_with_a_space_of_its_own_follows_without_another(kind: str, end: str) -> None:
    tokenizer = small_tokenizer(kind)
    answers = [" positive", "\tquite good"]
    prompt = f"Mood{end}"
    row = {"start": prompt, "options": answers, "answer": 0}
    for sequence, answer in zip(
        encode(family(tokenizer), task(), [row], "score")[0], answers, strict=True
    ):
        assert split(sequence) == harness(tokenizer, prompt, answer)
