"""Training, scoring and generation of an encoder-decoder begin behind the same token."""

from __future__ import annotations

import pytest
import torch
from transformers import M2M100Config, T5Config

from peml.errors import ModelError
from peml.models.families.decoding import behind_start, own_generation, start_of_answers
from tests.models.tasks import tiny_family

LABELS = torch.tensor([[5, 6, 2], [7, 2, -100]])


def test_labels_follow_the_start_token_in_every_row() -> None:
    config = M2M100Config(decoder_start_token_id=9)
    assert behind_start(LABELS, config).tolist() == [[9, 5, 6], [9, 7, 2]]
    assert own_generation(tiny_family("t5").spelling, config).decoder_start_token_id == 9


def test_without_one_answers_start_behind_bos_or_not_at_all() -> None:
    assert start_of_answers(T5Config(decoder_start_token_id=None, bos_token_id=1)) == 1
    with pytest.raises(ModelError, match="no token that answers start behind"):
        start_of_answers(T5Config(decoder_start_token_id=None, bos_token_id=None))
