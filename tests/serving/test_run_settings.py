"""A saved model answers as its run was evaluated, whatever the evaluation's settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import peml
from peml.config.loading import load_config
from peml.data.lines import read_rows
from peml.errors import CheckpointError
from peml.evaluation import read_predictions
from peml.run.pipeline import fit
from tests.cli.commands import peml as command
from tests.data.rows import write_jsonl
from tests.e2e.toy import Row, toy_config
from tests.export.folders import reseal
from tests.tasks.examples import choice, generation, sentiment

SETTINGS: dict[str, Row] = {
    "none": {},
    "no end": {"scoring": {"end": False}},
    "tokens": {"scoring": {"normalisation": "tokens"}},
    "bytes": {"scoring": {"normalisation": "bytes", "end": False}},
    "pmi": {"scoring": {"normalisation": "pmi"}},
    "pmi elsewhere": {"scoring": {"normalisation": "pmi", "unconditional": "the", "end": False}},
    "alone": {"scoring": {"share": False}, "tokens": 64, "max_new_tokens": 2},
}
OPTIONS = ["yes", "a man is walking", "the red ball is in the green box", "no . true"]
WORDS = ["the dog", "a fox and a man", "where is the red ball ?", "good", "bad film", "lazy"]


def run_of(folder: Path, family: str, evaluation: Row) -> Path:
    tasks = [
        sentiment(template="{{ sentence }} It is"),
        choice(template="{{ start }}:"),
        generation(template="say {{ text }}", stop=["e"]),
        generation(name="longer", template="say {{ text }}"),
    ]
    rows: dict[str, list[Row]] = {
        "sentiment": [{"sentence": text, "label": n % 2} for n, text in enumerate(WORDS)],
        "choice": [
            {"start": text, "options": OPTIONS[n % 2 :], "answer": 0}
            for n, text in enumerate(WORDS)
        ],
        "generation": [{"text": text, "target": text} for text in WORDS],
    }
    rows["longer"] = rows["generation"]
    files = []
    for task, (name, made) in zip(tasks, rows.items(), strict=True):
        write_jsonl(folder / "data" / name / "validation.jsonl", made)
        fields = task.model_dump(mode="json", exclude_defaults=True) | {
            "name": name,
            "splits": {"train": None},
            "source": {"path": "data"},
        }
        files.append(str(folder / f"{name}.yaml"))
        Path(files[-1]).write_text(yaml.safe_dump(fields))
    config = toy_config(folder, family, {"name": "frozen"}, evaluation=evaluation)
    chosen = f"tasks={{files: [{', '.join(files)}]}}"
    fit(load_config(config, [chosen, "evaluation.ablations=false"]), folder / "run")
    return folder / "run"


def agree(run: Path, folder: Path, model: Any) -> None:
    for name in ("sentiment", "choice", "generation", "longer"):
        kept = read_predictions(run, name)
        rows = [row for _, row in read_rows(folder / "data" / name / "validation.jsonl")]
        said = model.predict(name, rows)
        labels = [kept.task.labels or row.get("options") for row in rows]
        wanted = [
            names[value] if names else value
            for names, value in zip(labels, kept.predicted, strict=True)
        ]
        assert [answer.value for answer in said] == wanted, name
        for answer, scores in zip(said, kept.scores, strict=True):
            shares = torch.tensor(scores).softmax(0).tolist() if scores else []
            assert list(answer.scores.values()) == pytest.approx(shares, abs=1e-5)
            assert not scores or max(answer.scores, key=answer.scores.__getitem__) == answer.value


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
@pytest.mark.parametrize("name", SETTINGS)
def test_predictions_are_those_of_the_run(tmp_path: Path, name: str, family: str) -> None:
    run = run_of(tmp_path, family, SETTINGS[name])
    model = peml.load(run)
    agree(run, tmp_path, model)
    assert model.evaluation.max_new_tokens == SETTINGS[name].get("max_new_tokens", 6)


def test_the_command_uses_them_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, "causal", SETTINGS["pmi"])
    said = tmp_path / "said.jsonl"
    rows = tmp_path / "data" / "choice" / "validation.jsonl"
    for more in ((), ("--batch-tokens", "32"), ("--device", "cpu", "--dtype", "float32")):
        command(capsys, "predict", run, "--task", "choice", "-i", rows, "-o", said, *more)
        found = [json.loads(line)["prediction"] for line in said.read_text().splitlines()]
        kept = read_predictions(run, "choice").predicted
        options = [row["options"] for _, row in read_rows(rows)]
        assert found == [texts[value] for texts, value in zip(options, kept, strict=True)]


def test_a_folder_without_the_settings_is_refused(tmp_path: Path) -> None:
    """It is of the format before; guessing them would give other answers than the run's."""
    model = run_of(tmp_path, "causal", {}) / "model"
    stored = json.loads((model / "peml.json").read_text())
    assert stored["evaluation"]["max_new_tokens"] == 6
    changes: list[tuple[Row, str]] = [
        ({"format": 1}, "format 1"),
        ({"evaluation": {"scoring": {"normalisation": "words"}}}, "the evaluation of"),
    ]
    for change, message in changes:
        (model / "peml.json").write_text(json.dumps(stored | change))
        reseal(model, with_digest=True)
        with pytest.raises(CheckpointError, match=message):
            peml.load(model)


def test_a_row_without_numbers_is_an_error_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = run_of(tmp_path, "causal", {}) / "model"
    weights = model / "backbone" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.embed_tokens.weight"][:] = torch.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    reseal(model, with_digest=True)
    said = tmp_path / "said.jsonl"
    for task in ("sentiment", "generation"):
        rows = tmp_path / "data" / task / "validation.jsonl"
        found = command(capsys, "predict", model, "--task", task, "-i", rows, "-o", said)
        assert found.code == 2
        assert f"'{task}'" in found.error
        assert "NaN or infinite on 6 rows (from 0): 0, 1, 2" in " ".join(found.error.split())
    assert not said.exists()
