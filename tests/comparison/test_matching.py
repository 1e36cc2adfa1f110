"""Equal numbers of trainable parameters, or a refusal that says how near each method comes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peml.comparison.matching import Matching, Sized, match_methods
from peml.comparison.settings import ComparisonConfig, parse_comparison
from peml.errors import ConfigError
from peml.methods.budget import TOLERANCE
from peml.methods.layers import Layers, LinearShape
from peml.methods.shape import ModelShape
from peml.prefix.shape import PrefixShape

# 12 layers with two linear ones each, as far as counting goes.
SHAPE = ModelShape(
    layers=Layers(
        tuple(
            LinearShape(f"layer.{layer}.{name}", *size)
            for layer in range(12)
            for name, size in (("query", (64, 64)), ("dense", (64, 256)))
        )
    ),
    attention=None,
    hidden_size=64,
    parameters=1_000_000,
    tasks=3,
)
METHODS: dict[str, Any] = {
    "lora": {"lora": {"r": 20, "alpha": 20}},
    "mtl-lora": None,
    "multilora": None,
}


def config(methods: dict[str, Any], **top: Any) -> ComparisonConfig:
    raw = {"run": {"tasks": {"suite": "glue"}}, "methods": methods, "match": "parameters"}
    return parse_comparison(raw | top)


def match(
    config: ComparisonConfig, shape: ModelShape = SHAPE
) -> tuple[int | None, dict[str, dict[str, Sized]]]:
    return match_methods(config, dict.fromkeys(config.places, shape))


def lora(r: int) -> int:
    return 12 * r * (64 + 64 + 64 + 256)


def test_every_method_comes_near_the_references_parameters() -> None:
    budget, found = match(config(METHODS, reference="lora"))
    assert budget == lora(20)
    for sized in found["glue"].values():
        assert sized.off_budget is not None
        assert abs(sized.off_budget) <= TOLERANCE
        assert sized.parameters == pytest.approx(budget * (1 + sized.off_budget))
    assert found["glue"]["lora"].size == "r=20, alpha=20"
    resized: Any = found["glue"]["multilora"].method
    assert found["glue"]["multilora"].size == f"r={resized.r}, alpha={resized.alpha:g}"
    assert resized.r != 8


def test_a_budget_of_its_own_resizes_the_reference_too() -> None:
    _, found = match(config(METHODS, budget=lora(40)))
    assert found["glue"]["lora"].size == "r=40, alpha=40"


def test_without_matching_methods_run_as_configured() -> None:
    budget, found = match(config(METHODS, match="none"))
    assert budget is None
    sized = found["glue"]["lora"]
    assert (sized.parameters, sized.off_budget) == (lora(20), None)
    assert sized.size == "r=20, alpha=20"


def test_a_size_names_what_the_budget_changes_and_nothing_else() -> None:
    shape = replace(SHAPE, attention=PrefixShape(12, 4, 16))
    _, found = match(config({"peml": {}, "lora": {}}, reference="peml"), shape)
    names = [part.partition("=")[0] for part in found["glue"]["peml"].size.split(", ")]
    assert {"r", "alpha"} <= set(names) <= {"r", "alpha", "width", "head", "head_rank"}


def test_a_size_leaves_out_what_is_not_set() -> None:
    shape = replace(SHAPE, attention=PrefixShape(12, 4, 16))
    chosen = config({"prefix-nas": {}, "lora": {}}, match="none")
    _, found = match(chosen, shape)
    assert "width=" in found["glue"]["prefix-nas"].size
    assert "None" not in found["glue"]["prefix-nas"].size


def test_a_method_may_keep_its_own_size() -> None:
    methods = METHODS | {"small": {"name": "lora", "lora": {"r": 3}}}
    chosen = config(methods, reference="lora", unmatched=["small"])
    _, found = match(chosen)
    small = found["glue"]["small"]
    assert (small.parameters, small.off_budget) == (lora(3), None)
    assert found["glue"]["lora"].off_budget == 0
    with pytest.raises(ConfigError, match=r"no method of this label. Did you mean 'small'"):
        config(methods, unmatched=["smal"])


def test_a_method_without_a_size_is_unmatched() -> None:
    _, found = match(config(METHODS | {"full": None}))
    sized = found["glue"]["full"]
    assert (sized.size, sized.parameters, sized.off_budget) == ("", 1_000_000, None)


def test_what_cannot_reach_the_budget_is_told_together_with_one_that_all_can() -> None:
    methods = {"lora": None, "mtl-lora": None, "c-poly": None}
    with pytest.raises(ConfigError) as caught:
        match(config(methods, budget=2 * lora(1)))
    message = str(caught.value)
    for label in ("mtl-lora", "c-poly"):
        assert f"glue, {label}: the nearest it can reach is" in message
    assert "with r=1, alpha=2" in message

    with pytest.raises(ConfigError, match="which suits all of them") as caught:
        match(config(METHODS, budget=round(1.35 * lora(10))))
    suggested = str(caught.value).partition("such as ")[2].partition(", which")[0]
    match(config(METHODS, budget=int(suggested.replace(",", ""))))


def test_methods_that_are_the_same_once_matched_are_refused() -> None:
    twins = {"small": {"name": "lora"}, "large": {"name": "lora", "lora": {"r": 64, "alpha": 128}}}
    match(config(twins, match="none"))
    with pytest.raises(ConfigError, match=r"glue, large: the same as small .*: duplicate cells"):
        match(config(twins))


def test_a_saved_matching_is_the_same_again(tmp_path: Path) -> None:
    budget, found = match(config(METHODS))
    matching = Matching(budget=budget, steps={"glue": 10}, tasks={"glue": []}, suites=found)
    matching.write(tmp_path)
    assert Matching.read(tmp_path) == matching
