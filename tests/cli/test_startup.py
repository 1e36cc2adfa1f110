"""What a verb may import: nobody waits for libraries that the verb doesn't use."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from peml.cli.sparing import quick_imports
from peml.testing import save_tiny_model
from tests.e2e.fixtures import Runs

LIBRARIES = {
    *("accelerate", "datasets", "matplotlib", "numpy", "optuna", "pandas", "peft", "pyarrow"),
    *("sacrebleu", "scipy", "sklearn", "sqlalchemy", "tensorboardX", "torch", "transformers"),
}
_SCRIPT = """
import json, sys
from peml.cli import main
libraries, code = json.loads(sys.argv[1])
try:
    main(sys.argv[2:])
except SystemExit as ended:
    assert (ended.code or 0) == code, ended.code
loaded = [name for name in libraries if name in sys.modules]
print("\\n" + json.dumps(loaded))
"""


def imported(*words: str, code: int = 0) -> set[str]:
    """The libraries that a command imports, in a process of its own."""
    command = [sys.executable, "-c", _SCRIPT, json.dumps([sorted(LIBRARIES), code]), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return set(found)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["fit", "--help"],
        ["compare", "--help"],
        ["estimate", "--help"],
        ["serve", "--help"],
        ["tasks", "list"],
    ],
)
def test_help_and_lists_import_no_library_of_the_kind(words: list[str]) -> None:
    assert imported(*words) == set()


def test_a_config_is_described_and_read_without_torch(tmp_path: Path) -> None:
    assert imported("config", "schema") <= {"numpy", "pyarrow"}
    config = tmp_path / "config.yaml"
    config.write_text("tasks: {suite: demo}\nmethod: {name: mtl-lora}\n")
    assert imported("config", "show", str(config)) <= {"numpy", "pyarrow"}


def test_rows_are_shown_without_torch() -> None:
    assert imported("tasks", "show", "demo/topics") <= {"numpy", "pyarrow"}


@pytest.mark.parametrize("verb", ["fit", "compare", "tune", "estimate"])
def test_a_wrong_config_is_refused_without_torch(verb: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("nonsense: 1\n")
    assert imported(verb, str(config), code=2) <= {"numpy", "optuna", "pyarrow"}


@pytest.mark.parametrize("tuning", [None, {"factors": [1, 2]}])
def test_a_comparison_needs_optuna_only_to_tune(
    tuning: dict[str, list[int]] | None, tmp_path: Path
) -> None:
    save_tiny_model("bert", tmp_path / "model")
    run = {
        "model": {"name": str(tmp_path / "model")},
        "tasks": {"suite": "demo", "include": ["reviews"], "rows": 16, "development_rows": 8},
        "training": {"epochs": 1},
    }
    config = {"run": run, "methods": {"lora": {}}, "seeds": [0], "tuning": tuning}
    (tmp_path / "compare.yaml").write_text(json.dumps(config))
    found = imported("compare", str(tmp_path / "compare.yaml"), "-o", str(tmp_path / "out"))
    assert ({"optuna", "sqlalchemy"} <= found) == (tuning is not None)


def test_prediction_imports_nothing_that_only_training_needs(runs: Runs, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"sentence": "the dog is bad"}\n')
    words = ("--task", "mood", "-i", str(rows), "-o", str(tmp_path / "answers.jsonl"))
    found = imported("predict", str(runs("encoder", "lora")), *words)
    # Transformers itself imports scipy, and some releases scikit-learn and pandas.
    code = "import json, sys, transformers.modeling_utils\nprint(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found - set(json.loads(done.stdout)) <= {"numpy", "pyarrow"}


def test_pandas_is_found_after_it_was_skipped() -> None:
    code = (
        "import sys; from peml.cli.sparing import skip_pandas; skip_pandas(); import pyarrow\n"
        "rows = pyarrow.array(['a']); assert 'pandas' not in sys.modules\n"
        "import pandas; assert rows.to_pandas()[0] == 'a'\n"
        "assert pyarrow.array(pandas.Series([1.0, None])).null_count == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_garbage_is_searched_for_after_the_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: F401 - a process that has it is left alone

    frozen = gc.get_freeze_count()
    with quick_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
    monkeypatch.delitem(sys.modules, "torch")
    try:
        with quick_imports():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
