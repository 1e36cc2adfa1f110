"""What a verb may import: nobody waits for libraries that the verb doesn't use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARIES = {
    *("accelerate", "datasets", "matplotlib", "numpy", "optuna", "pandas", "peft", "pyarrow"),
    *("sacrebleu", "scipy", "sklearn", "sqlalchemy", "tensorboardX", "torch", "transformers"),
}
_SCRIPT = """
import json, sys
from peml.cli import main
try:
    main(sys.argv[2:])
except SystemExit as ended:
    assert not ended.code, ended.code
loaded = [name for name in json.loads(sys.argv[1]) if name in sys.modules]
print("\\n" + json.dumps(loaded))
"""


def imported(*words: str) -> set[str]:
    """The libraries that a command imports, in a process of its own."""
    command = [sys.executable, "-c", _SCRIPT, json.dumps(sorted(LIBRARIES)), *words]
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
    # pyarrow asks for pandas itself.
    assert imported("tasks", "show", "demo/topics") <= {"numpy", "pandas", "pyarrow"}


def test_prediction_imports_nothing_that_only_training_needs() -> None:
    # Transformers first: some releases import scikit-learn themselves.
    code = (
        "import json, sys, transformers.generation.utils\n"
        f"new = {LIBRARIES!r} - set(sys.modules)\n"
        "import peml.data.files, peml.serving.predictor, peml.export.native\n"
        "print(json.dumps(sorted(new & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    trains = {"datasets", "matplotlib", "optuna", "peft", "sklearn", "sqlalchemy", "tensorboardX"}
    assert not set(json.loads(done.stdout)) & trains
