"""The built-in families under the suite that a third party's family has to pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peml.errors import ModelError
from peml.models import ModelSettings
from peml.models.families import FAMILIES, CausalFamily
from peml.models.reading import detect_family
from peml.testing import FamilySuite
from peml.testing.models import tiny_model
from tests.packages import added


class TestEncoder(FamilySuite):
    name = "encoder"
    model = "bert"


class TestCausal(FamilySuite):
    name = "causal"
    model = "llama"


class TestSeq2Seq(FamilySuite):
    name = "seq2seq"
    model = "t5"


class Continuing(CausalFamily):
    """A third party's family that claims every decoder."""

    name = "continuing"


def test_every_family_has_a_suite() -> None:
    suites = {value.name for key, value in globals().items() if key.startswith("Test")}
    assert suites == set(FAMILIES.names())


def test_a_family_can_be_named_in_a_config(tmp_path: Path) -> None:
    section: dict[str, Any] = {"family": "continuing"}
    with pytest.raises(ValueError, match=r"no model family 'continuing'\..* There are: auto, c"):
        ModelSettings(**section)
    with added(FAMILIES, tmp_path, {"continuing": f"{__name__}:Continuing"}):
        assert ModelSettings(**section).family == "continuing"


def test_a_model_that_two_families_claim_is_nobodys(tmp_path: Path) -> None:
    config = tiny_model("llama").config
    assert detect_family(config) == "causal"
    with (
        added(FAMILIES, tmp_path, {"continuing": f"{__name__}:Continuing"}),
        pytest.raises(ModelError, match="fits the families causal and continuing") as caught,
    ):
        detect_family(config)
    assert caught.value.action == "set model.family to one of causal, continuing"
