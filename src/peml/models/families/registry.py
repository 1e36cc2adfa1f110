"""The model families by name: the built-in ones, and those that installed packages add."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peml.registry import Registry

if TYPE_CHECKING:  # names are known without torch
    from peml.models.families.base import Family

FAMILIES: Registry[type[Family]] = Registry(
    "peml.families",
    "model family",
    {
        "causal": "peml.models.families.text:CausalFamily",
        "encoder": "peml.models.families.encoder:EncoderFamily",
        "seq2seq": "peml.models.families.seq2seq:Seq2SeqFamily",
    },
    own_name=lambda family: family.name,
)
