"""Model families: encoder, seq2seq and causal."""

from peml.models.families.base import EncodedSequence, Family, ModelOutput, Purpose
from peml.models.families.encoder import EncoderFamily
from peml.models.families.spelling import Spelling
from peml.models.families.text import CausalFamily, Seq2SeqFamily, TextFamily

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

FAMILIES: dict[str, type[Family]] = {
    family.name: family for family in (EncoderFamily, Seq2SeqFamily, CausalFamily)
}
