"""What of a generated answer is text: everything but padding, starts and ends."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaTokenizer, T5Tokenizer

from peml.errors import DataError
from peml.models import Spelling
from peml.models.families.spelling import declared_ends
from peml.testing.models import tiny_tokenizer
from tests.models.tasks import encode, tiny_family
from tests.tasks.examples import generation

PIECES = ["▁", *(mark + text for mark in ("▁", "") for text in ("a", "b", "1", "2", "."))]


def t5(**options: Any) -> Any:
    vocabulary = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")]
    tokenizer = T5Tokenizer(vocab=[*vocabulary, *((p, -2.0) for p in PIECES)], extra_ids=2)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<ans>", "</ans>"]})
    return tokenizer


def llama() -> Any:
    names = ["<unk>", "<s>", "</s>", *PIECES]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=[("▁", text) for text in "ab12."])
    tokenizer.add_special_tokens({"pad_token": "</s>", "extra_special_tokens": ["<ans>", "</ans>"]})
    return tokenizer


def bytes_of(**special: Any) -> Any:
    tokenizer = tiny_tokenizer("causal")
    tokenizer.add_special_tokens({"extra_special_tokens": ["<ans>", "</ans>"], **special})
    return tokenizer


TOKENIZERS = {"t5": t5, "llama": llama, "bytes": bytes_of}
TEXTS = ["<ans> 2", "<ans>2</ans>", "a <ans> 2 </ans> b", "a . <ans>", "2"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_answer_that_is_generated_as_it_was_learnt_is_the_right_one(
    name: str, text: str
) -> None:
    tokenizer = TOKENIZERS[name]()
    spelling = Spelling(tokenizer)
    answer = tokenizer(text, add_special_tokens=False)["input_ids"]
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    said = spelling.read([*answer, end, pad, pad]).strip()
    assert said == spelling.respell(text)
    assert "".join(said.split()) == "".join(text.split())
    assert spelling.read(answer) == spelling.read([*answer, end, *answer])


@pytest.mark.parametrize("text", TEXTS)
def test_a_tokenizer_that_keeps_spaces_gives_the_text_itself(text: str) -> None:
    assert Spelling(bytes_of()).respell(text) == text


def test_sentinels_are_part_of_an_answer() -> None:
    tokenizer = t5()
    spelling = Spelling(tokenizer)
    assert spelling.respell("<extra_id_0> 2") == "<extra_id_0> 2"
    assert spelling.read(tokenizer("<extra_id_0> 2")["input_ids"]) == "<extra_id_0> 2"


def test_a_text_that_changes_in_more_than_spaces_stays_as_it_is() -> None:
    assert Spelling(t5()).respell("<ans> ü") == "<ans> ü"


def test_spaces_before_punctuation_stay() -> None:
    tokenizer = t5()
    tokenizer.clean_up_tokenization_spaces = True
    assert Spelling(tokenizer).read(tokenizer("a . b")["input_ids"]) == "a . b"


def test_what_a_tokenizer_puts_around_a_target_is_dropped() -> None:
    tokenizer = tiny_tokenizer("encoder")  # <s> text </s>, as BART's
    assert Spelling(tokenizer).read(tokenizer("the dog")["input_ids"]) == "the dog"


@pytest.mark.parametrize("token", ["</s>", "<s>", "<pad>", "<mask>"])
def test_an_answer_with_padding_a_start_or_an_end_is_refused(token: str) -> None:
    text = f"the dog {token} is"
    spelling = Spelling(tiny_tokenizer("causal"))
    if token == "<mask>":
        assert spelling.respell(text) == text
        return
    with pytest.raises(DataError, match=f"contains '{token}'"):
        spelling.respell(text)
    rows = [{"text": "the dog", "target": text}]
    with pytest.raises(DataError, match=f"contains '{token}'"):
        encode(tiny_family("llama"), generation(), rows, "train")


def test_declared_ends_are_special_tokens() -> None:
    tokenizer = bytes_of()
    ordinary, special = tokenizer.convert_tokens_to_ids(["e", "</ans>"])
    assert declared_ends(tokenizer, [special, ordinary, 99999]) == (special,)
    assert declared_ends(tokenizer, special) == (special,)
    assert declared_ends(tokenizer, None) == ()
    spelling = Spelling(tokenizer, (special,))
    assert spelling.ends == (tokenizer.eos_token_id, special)
    assert spelling.read(tokenizer("2</ans>3", add_special_tokens=False)["input_ids"]) == "2"
