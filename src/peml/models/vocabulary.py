"""Fits a tokenizer to its model: ids within the embedding, padding, an end token, segments."""

import json
import warnings
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from peml.errors import ModelError

_MANY = 1000  # tokens of a vocabulary, among which there are words
_SHOWN = 5  # tokens named in a message
_RESIZE = (
    "call model.resize_token_embeddings(len(tokenizer)) and save model and tokenizer together, or "
    "remove the added tokens from the tokenizer"
)


def fit_tokenizer(tokenizer: Any, config: Any, stored: dict[str, Any], name: str) -> None:
    """Refuses a tokenizer that doesn't fit a model's config, and sets a missing end or padding.

    Called once while loading, before anything is tokenised.

    `config` has Transformers' defaults filled in, which may name tokens of another model; `stored`
    is the content of ``config.json``.

    Raises:
        ModelError: It knows no words, has ids without an embedding, or no padding token and no end
            token.
    """
    _refuse_without_words(tokenizer, name)
    _stop_sampling(tokenizer, name)
    tokenizer.truncation_side = "right"  # families cut on the left themselves if they want to
    if getattr(config, "type_vocab_size", 2) < 2:
        # A model with at most one segment needs no segment ids.
        names = [each for each in tokenizer.model_input_names if each != "token_type_ids"]
        tokenizer.model_input_names = names
    if tokenizer.eos_token_id is None:
        _take_end_of(tokenizer, stored)
    try:
        rows = getattr(config.get_text_config(), "vocab_size", None)
    except ValueError:  # more than one text model; `load_backbone` checks the embeddings later
        rows = None
    if isinstance(rows, int):
        _drop_padding_beyond(tokenizer, rows, name)
        check_vocabulary(tokenizer, rows, name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"the tokenizer of model {name!r} has no padding and no end-of-text token",
            action="add one to the tokenizer and save it beside the model",
        )


def _stop_sampling(tokenizer: Any, name: str) -> None:
    """Switches off BPE dropout, with which a text has other tokens each time it is read."""
    words: Any = getattr(getattr(tokenizer, "_tokenizer", None), "model", None)
    if getattr(words, "dropout", None):
        warnings.warn(
            f"the tokenizer of model {name!r} leaves out merges by chance (dropout "
            f"{words.dropout:g} in tokenizer.json); it is switched off, so that a text always has "
            "the same tokens",
            stacklevel=3,
        )
        words.dropout = None


def _refuse_without_words(tokenizer: Any, name: str) -> None:
    """Refuses what Transformers makes of a model without a tokenizer: one of special tokens only.

    It reads every text as unknown tokens, or as nothing.
    """
    if tokenizer.vocab_size >= _MANY:
        return
    words = (
        {*tokenizer.get_vocab()} - {*tokenizer.all_special_tokens} - {*tokenizer.get_added_vocab()}
    )
    if len(words) < 2:  # T5's has a space
        files = ", ".join(sorted({*tokenizer.vocab_files_names.values()})) or "tokenizer.json"
        raise ModelError(
            f"the tokenizer of model {name!r} knows special tokens only, as if it was not saved "
            "with the model",
            allowed=f"a model with its tokenizer's files ({files})",
            action="save the tokenizer of its base model there with save_pretrained",
        )


def check_vocabulary(tokenizer: Any, rows: int, name: str) -> None:
    """Raises a ModelError if a tokenizer has ids that the model has no embedding for.

    More embeddings than tokens are fine: models often round their number up.
    """
    beyond = _beyond(tokenizer, rows)
    if not beyond:
        return
    shown = ", ".join(f"{token} ({number})" for token, number in beyond[:_SHOWN])
    more = f" and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
    end = tokenizer.eos_token
    about_end = (
        f"; {end} is its end token (tokenizer_config.json), but was not in its vocabulary"
        if end in dict(beyond)
        else ""
    )
    raise ModelError(
        f"the tokenizer of model {name!r} has tokens that the model has no embedding for: "
        f"{shown}{more}{about_end}",
        allowed=f"ids below {rows}, the number of embeddings",
        action=_RESIZE + ("; or name an end token that is in the vocabulary" if about_end else ""),
    )


def check_end(tokenizer: Any, name: str, vocabulary: str) -> None:
    """Raises a ModelError if a text-to-text model's tokenizer has no usable end token.

    ``vocabulary`` is the text of the files that define the tokens, if there are any.
    """
    end = tokenizer.eos_token
    if end is None or tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of model {name!r} has no end-of-text token, and its config names none "
            "(eos_token_id), so the model could not end a text",
            allowed="a token of the tokenizer",
            action="set tokenizer.eos_token and save the tokenizer beside the model",
        )
    spelled = (json.dumps(end), json.dumps(end, ensure_ascii=False))
    if vocabulary and not any(each in vocabulary for each in spelled):
        raise ModelError(
            f"the end token {end} of model {name!r} (tokenizer_config.json) is not in its "
            "vocabulary, so the model was not trained with it",
            allowed="a token of tokenizer.json",
            action="name the token that the model ends its texts with as eos_token",
        )


def _beyond(tokenizer: Any, rows: int) -> Sequence[tuple[str, int]]:
    beyond = [(token, number) for token, number in tokenizer.get_vocab().items() if number >= rows]
    return sorted(beyond, key=lambda item: item[1])


def _take_end_of(tokenizer: Any, stored: dict[str, Any]) -> None:
    """Sets the end token that a model's config names, for a tokenizer that names none."""
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    for section in (stored, stored.get("text_config")):
        value = section.get("eos_token_id") if isinstance(section, dict) else None
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number in tokens:
                tokenizer.eos_token = tokens[number]
                return


def _drop_padding_beyond(tokenizer: Any, rows: int, name: str) -> None:
    """Pads with the end token if the padding token is the only token without an embedding.

    Padding is masked, so any token works. The padding token is removed from the vocabulary;
    otherwise a text that contains it would get the id without an embedding.
    """
    backend = getattr(tokenizer, "_tokenizer", None)
    padding = tokenizer.pad_token
    if backend is None or [token for token, _ in _beyond(tokenizer, rows)] != [padding]:
        return
    instead = tokenizer.eos_token or tokenizer.sep_token
    if instead is None or instead == padding:
        return
    content = json.loads(backend.to_str())
    others = [token for token in content["added_tokens"] if token["content"] != padding]
    if len(others) == len(content["added_tokens"]):
        return
    content["added_tokens"] = others
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.pad_token = instead
    warnings.warn(
        f"model {name!r} has no embedding for its padding token {padding}; rows are padded with "
        f"{instead} instead",
        stacklevel=2,
    )
