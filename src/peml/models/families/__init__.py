"""Model families: encoder, seq2seq and causal, and those that installed packages add."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.models.families.base import EncodedSequence, Family, ModelOutput, Purpose
    from peml.models.families.encoder import EncoderFamily
    from peml.models.families.registry import FAMILIES
    from peml.models.families.seq2seq import Seq2SeqFamily
    from peml.models.families.spelling import Spelling
    from peml.models.families.text import CausalFamily, TextFamily
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "FAMILIES",
    "CausalFamily",
    "EncodedSequence",
    "EncoderFamily",
    "Family",
    "ModelOutput",
    "Purpose",
    "Seq2SeqFamily",
    "Spelling",
    "TextFamily",
]
