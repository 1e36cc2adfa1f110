"""Small tokenizers of the kinds that decoder-only models bring, trained on a few lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

_LINES = [
    "the good film was fine and the bad film was poor",
    "Mood: positive\nMood: negative\n\nMood:\npositive",
    "a man is walking in the green box ; yes no maybe not",
    "positive positively pos quite good",
] * 3
_SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]
_BYTES = [f"<0x{value:02X}>" for value in range(256)]
_LETTERS = [chr(code) for code in range(33, 127)]
_METASPACE = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
)


def _byte_level() -> Tokenizer:
    """As in GPT-2: white space belongs to the word behind it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return _trained_bytes(made)


def _lines_with_marks() -> Tokenizer:
    """As in Llama 3: a line break belongs to the punctuation in front of it."""
    made = Tokenizer(models.BPE())
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    return _trained_bytes(made)


def _trained_bytes(made: Tokenizer) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(
        _LINES,
        trainers.BpeTrainer(
            vocab_size=420, show_progress=False, special_tokens=_SPECIALS, initial_alphabet=alphabet
        ),
    )
    return made


def _sentencepiece(scheme: str) -> Tokenizer:
    """As in Llama and Gemma: a space is a letter; one may be put in front of a text."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    specials, alphabet = [*_SPECIALS, *_BYTES], ["▁", *_LETTERS]
    made.train_from_iterator(
        [line.replace("\n", " ") for line in _LINES],
        trainers.BpeTrainer(
            vocab_size=460, show_progress=False, special_tokens=specials, initial_alphabet=alphabet
        ),
    )
    made.decoder = _METASPACE
    return made


def _prepend() -> Tokenizer:
    """As in the tokenizer.json of Mistral 7B, Mixtral and Phi-3: whole texts, a space in front."""
    made = _sentencepiece("first")
    made.pre_tokenizer = None
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return made


def _unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        show_progress=False,
        special_tokens=_SPECIALS,
        unk_token="<unk>",
        initial_alphabet=_LETTERS,
    )
    made.train_from_iterator(_LINES, trainer)
    made.decoder = _METASPACE
    return made


def _wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        _LINES,
        trainers.WordPieceTrainer(vocab_size=200, show_progress=False, special_tokens=_SPECIALS),
    )
    made.decoder = decoders.WordPiece()
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": _byte_level,
    "lines with marks": _lines_with_marks,
    "metaspace always": lambda: _sentencepiece("always"),
    "metaspace first": lambda: _sentencepiece("first"),
    "metaspace never": lambda: _sentencepiece("never"),
    "prepend": _prepend,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
}


def small_tokenizer(
    kind: str, *, starts: bool = True, ends: bool = False, **special: Any
) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind in ``KINDS``.

    Args:
        kind: What it is like.
        starts: Whether it puts its start token in front of every text.
        ends: Whether it puts its end token behind every text.
        **special: Special tokens that replace the usual ones (``bos_token=None``).
    """
    made = KINDS[kind]()
    frame = " ".join([*["<s>"] * starts, "$A", *["</s>"] * ends])
    made.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokens = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, clean_up_tokenization_spaces=False, **(tokens | special)
    )
