from __future__ import annotations

import pytest

from tests.benchmarks.conftest import Script


def test_a_figure_holds_when_it_meets_its_limit(script: Script) -> None:
    common = script("common")
    assert common.at_most("padding", 0.1, "share", 0.1).holds
    assert not common.at_most("padding", 0.11, "share", 0.1).holds
    assert common.at_least("speed", 2.0, "ratio", 2.0).holds
    assert not common.at_least("speed", 1.9, "ratio", 2.0).holds


def test_ratio_of_medians_ignores_outliers_and_brackets_the_value(script: Script) -> None:
    common = script("common")
    base = [1.0, 1.1, 0.9, 1.0, 50.0]
    ratio = common.ratio_of_medians([2 * value for value in base], base)
    assert ratio.value == ratio.low == ratio.high == 2.0

    noisy = common.ratio_of_medians([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 1.0, 1.0, 1.0, 1.0])
    assert noisy.value == 3.0
    assert noisy.low < 3.0 < noisy.high


def test_the_source_may_come_from_the_environment(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = script("common")
    assert common.benchmark_parser("A title.").parse_args([]).source is None
    monkeypatch.setenv("PEML_DATA", "/data")
    assert common.benchmark_parser("A title.").parse_args([]).source == "/data/glue"
