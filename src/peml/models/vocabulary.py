"""A tokenizer made to fit its model: ids within the embedding, padding, an end token, segments."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from peml.errors import ModelError

_SHOWN = 5  # tokens named in a message
_RESIZE = (
    "call model.resize_token_embeddings(len(tokenizer)) and save model and tokenizer together, or "
    "take the added tokens out of the tokenizer"
)


def fit_tokenizer(tokenizer: Any, config: Any, stored: dict[str, Any], name: str) -> None:
    """Refuses a tokenizer that can't go with a model's config, and sets what it leaves open.

    Called once while loading, before anything is tokenised.

    Args:
        tokenizer: Of Transformers; changed in place.
        config: The model's, as Transformers completes it.
        stored: The content of ``config.json``: a class's defaults name tokens of another model.
        name: Of the model, for messages.

    Raises:
        ModelError: It has ids that the model has no embedding for, no padding, or, for a model
            that writes text, no end token.
    """
    if getattr(config, "type_vocab_size", 2) < 2:
        # The model has at most one segment, which it takes for given.
        names = [each for each in tokenizer.model_input_names if each != "token_type_ids"]
        tokenizer.model_input_names = names
    if tokenizer.eos_token_id is None:
        _take_end_of(tokenizer, stored)
    rows = _embedding_rows(config)
    if rows is not None:
        _drop_padding_beyond(tokenizer, rows, name)
        check_vocabulary(tokenizer, rows, name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"the tokenizer of model {name!r} has no padding and no end-of-text token",
            action="add one to the tokenizer and save it beside the model",
        )


def _embedding_rows(config: Any) -> int | None:
    """How many tokens a model has embeddings for by its config; None where it doesn't say."""
    try:
        rows = getattr(config.get_text_config(), "vocab_size", None)
    except ValueError:  # more than one text model; the embeddings themselves are looked at later
        return None
    return rows if isinstance(rows, int) else None


def check_vocabulary(tokenizer: Any, rows: int, name: str) -> None:
    """Refuses a tokenizer with ids that a model has no embedding for.

    A model may have more embeddings than there are tokens: that is how sizes are rounded up.

    Raises:
        ModelError: It has; the first tokens are named.
    """
    beyond = _beyond(tokenizer, rows)
    if not beyond:
        return
    shown = ", ".join(f"{token} ({number})" for token, number in beyond[:_SHOWN])
    more = f" and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
    end = tokenizer.eos_token
    about_end = (
        f"; {end} is its end token (tokenizer_config.json), which its vocabulary did not have"
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
    """Refuses a tokenizer that can't say where a text ends.

    Args:
        tokenizer: Of a model that writes text.
        name: Of the model.
        vocabulary: The files that define the tokens; empty where they are of another kind.

    Raises:
        ModelError: Neither tokenizer nor config names an end token, or it is one that Transformers
            had to make up.
    """
    end = tokenizer.eos_token
    if end is None or tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of model {name!r} has no end-of-text token, and its config names none "
            "(eos_token_id): the model could not end a text",
            allowed="a token of the tokenizer",
            action="set tokenizer.eos_token and save the tokenizer beside the model",
        )
    spelled = (json.dumps(end), json.dumps(end, ensure_ascii=False))
    if vocabulary and not any(each in vocabulary for each in spelled):
        raise ModelError(
            f"the end token {end} of model {name!r} (tokenizer_config.json) is not in its "
            "vocabulary, so the model never saw it",
            allowed="a token of tokenizer.json",
            action="name the token that the model ends its texts with as eos_token",
        )


def _beyond(tokenizer: Any, rows: int) -> Sequence[tuple[str, int]]:
    found = [(token, number) for token, number in tokenizer.get_vocab().items() if number >= rows]
    return sorted(found, key=lambda item: item[1])


def _take_end_of(tokenizer: Any, stored: dict[str, Any]) -> None:
    """The end token that a model's config names, for a tokenizer that names none."""
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    for section in (stored, stored.get("text_config")):
        value = section.get("eos_token_id") if isinstance(section, dict) else None
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number in tokens:
                tokenizer.eos_token = tokens[number]
                return


def _drop_padding_beyond(tokenizer: Any, rows: int, name: str) -> None:
    """Pads with the end token where the padding token is all that a model has no embedding for.

    Padding is masked, so that any token serves. The padding token leaves the vocabulary, or a text
    that spells it would be turned into the id that the model doesn't have.
    """
    backend = getattr(tokenizer, "_tokenizer", None)
    padding = tokenizer.pad_token
    if backend is None or [token for token, _ in _beyond(tokenizer, rows)] != [padding]:
        return
    instead = tokenizer.eos_token or tokenizer.sep_token
    if instead is None or instead == padding:
        return
    content = json.loads(backend.to_str())
    kept = [token for token in content["added_tokens"] if token["content"] != padding]
    if len(kept) == len(content["added_tokens"]):
        return
    content["added_tokens"] = kept
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.pad_token = instead
    warnings.warn(
        f"model {name!r} has no embedding for {padding}, which pads its rows: {instead} does so "
        "instead",
        stacklevel=2,
    )
