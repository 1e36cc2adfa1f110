"""The methods by name, and a third party's through an entry point, as the documentation says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peml.errors import CheckpointError, ConfigError
from peml.export import export_model
from peml.files import read_json
from peml.methods.base import Method
from peml.methods.registry import METHODS, build_method, list_methods, parse_method
from tests.e2e.toy import toy_config
from tests.packages import added, write_package

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"

_SCRIPT = """
import sys
import pytest
from peml.cli import main

try:
    main(["fit", sys.argv[1], "--output", sys.argv[2]])
except SystemExit as ended:
    assert not ended.code, ended.code
sys.exit(pytest.main([sys.argv[3], "-q", "-p", "no:cacheprovider"]))
"""


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The documentation's package, as an installer would leave it on the path."""
    package, test = blocks("python")
    (toml,) = blocks("toml")
    site = tmp_path / "site"
    write_package(site, "scaled-lora", toml, {"scaled_lora": package, "test_scaled_lora": test})
    return site


@pytest.mark.e2e
def test_the_documentations_method_trains_and_passes_the_suite(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = {"name": "scaled-lora", "r": 2, "learning_rate": 0.01}
    config = toy_config(tmp_path, "causal", section)
    run = tmp_path / "run"
    surroundings = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(installed), *sys.path]),
        "PEML_CACHE": str(tmp_path / "cache"),
    }
    words = [sys.executable, "-c", _SCRIPT, config, run, installed / "test_scaled_lora.py"]
    done = subprocess.run(
        list(map(str, words)), env=surroundings, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[.]{20}", done.stdout), "the suite found nothing to check"
    results = read_json(run / "results.json")
    assert (results["method"], results["needs_task_id"]) == ("scaled-lora", True)
    # Without its package the model is refused by name, not loaded as something else.
    with pytest.raises(CheckpointError, match="there is no method 'scaled-lora'"):
        export_model(run, tmp_path / "out", "lora")


def test_without_third_parties_there_are_our_own() -> None:
    assert set(list_methods()) == {
        *("adalora", "c-poly", "context-tuning", "dora", "frozen", "full", "hira", "lora"),
        *("lora+context", "lora+prefix", "miss"),
        *("moe-lora", "mtl-lora", "multilora", "peml", "rslora"),
        *("prefix-nas", "prefix-tuning", "prompt-tuning"),
    }


@pytest.mark.parametrize("name", list_methods())
def test_every_method_is_built_from_its_default_section_and_documented(name: str) -> None:
    method = build_method(parse_method({"name": name}))
    assert isinstance(method, Method)
    assert bool(method.merging.reason) == (method.merging.how != "once")
    assert f"| `{name}` |" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"name": "mtllora"}, ("no method 'mtllora'", "Did you mean 'mtl-lora'?", "rslora")),
        ({}, ("no method",)),
        (
            {"name": "mtl-lora", "rr": 2},
            ("'mtl-lora' has one problem", "rr: unknown key. Did you mean 'r'?"),
        ),
        ({"name": "moe-lora", "r": 6}, ("r (6) is not a multiple of experts (4)", "4 would be")),
        (
            {"name": "moe-lora", "routing": "token", "top_k": 5},
            ("top_k (5) is larger than experts (4)",),
        ),
        ({"name": "c-poly", "shared": 0, "r": 0}, ("shared: ", "r: ")),
    ],
)
def test_a_wrong_section_is_one_clear_message(section: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_method(section)
    for part in said:
        assert part in str(caught.value)


def test_a_method_is_registered_under_the_name_of_its_settings(tmp_path: Path) -> None:
    with (
        added(METHODS, tmp_path, {"ours": "peml.methods.full:Full"}),
        pytest.raises(ConfigError, match=r"'ours' \(peml.methods.full:Full\) is called 'full'"),
    ):
        parse_method({"name": "ours"})
