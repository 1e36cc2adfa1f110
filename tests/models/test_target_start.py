"""Encoder-decoders whose tokenizer puts tokens around targets: a language's code, or ``<s>``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import MBart50Tokenizer, MBartTokenizer, PreTrainedTokenizerBase

from peml.models import ModelSettings, TaskModel, load_backbone
from peml.models.families import Seq2SeqFamily
from peml.testing.models import tiny_model
from tests.models.tasks import collate, encode
from tests.tasks.examples import generation, sentiment

_PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁good", "▁poor", "▁the", "▁film", "▁"]
_ROW = {"sentence": "the film", "label": 1}


def _tokenizer(kind: Any, target: str) -> PreTrainedTokenizerBase:
    vocabulary = [(piece, -float(place)) for place, piece in enumerate(_PIECES)]
    made: PreTrainedTokenizerBase = kind(vocab=vocabulary, src_lang="en_XX", tgt_lang=target)
    return made


def _family(tokenizer: Any) -> Seq2SeqFamily:
    return Seq2SeqFamily(tokenizer, max_length=64, pooling="mean")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (MBart50Tokenizer, ["de_DE", "▁good", "</s>"]),
        (MBartTokenizer, ["▁good", "</s>"]),  # de_DE is what its answers start behind
    ],
)
def test_targets_begin_with_their_language_and_end_once(kind: Any, said: list[str]) -> None:
    family = _family(_tokenizer(kind, "de_DE"))
    task = sentiment(label_words=["poor", "good"])
    ((sequence,),) = encode(family, task, [_ROW], "train")
    assert family.tokenizer.convert_ids_to_tokens(sequence.labels) == said


def test_a_long_text_keeps_its_language() -> None:
    family = Seq2SeqFamily(_tokenizer(MBart50Tokenizer, "de_DE"), max_length=8, pooling="mean")
    row = {"sentence": "the film " * 9, "label": 1}
    for purpose in ("train", "score", "generate"):
        ((sequence, *_),) = encode(family, sentiment(), [row], purpose)
        pieces = family.tokenizer.convert_ids_to_tokens(sequence.input_ids)
        assert (pieces[0], pieces[-1], len(pieces)) == ("en_XX", "</s>", 8)
        assert sequence.cut


def test_answers_are_generated_behind_the_targets_language(tmp_path: Path) -> None:
    tokenizer = _tokenizer(MBart50Tokenizer, "de_DE")
    tokenizer.save_pretrained(tmp_path)
    special: dict[str, Any] = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    tiny: Any = tiny_model("bart", vocab_size=len(tokenizer), decoder_start_token_id=2, **special)
    tiny.save_pretrained(tmp_path)
    model = TaskModel(load_backbone(ModelSettings(name=str(tmp_path))), (generation(),))
    rows = [{"text": "the good film", "target": ""}] * 2
    encoded = encode(model.family, model.tasks[0], rows, "generate")
    batch = collate(model.family, [(0, each) for each in encoded])
    said = tiny.generate(
        input_ids=batch.input_ids,
        forced_bos_token_id=tokenizer.convert_tokens_to_ids("de_DE"),
        max_new_tokens=7,  # the language is one of them
    )
    own = [model.family.spelling.read(row).strip() for row in said[:, 2:].tolist()]
    assert model.generate(batch, max_new_tokens=6) == own


def test_another_target_language_is_another_tokenizer() -> None:
    german, same, czech = (
        _family(_tokenizer(MBart50Tokenizer, language)).tokenizer_rules
        for language in ("de_DE", "de_DE", "cs_CZ")
    )
    assert german == same
    assert german != czech
