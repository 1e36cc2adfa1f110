"""Killed by SIGKILL and called again, a run ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peml.prefix.genotype import Genotype
from peml.prefix.size import count_network
from tests.e2e.apart import Moment, fit_apart
from tests.e2e.toy import METHODS, Row, toy_config

pytestmark = pytest.mark.e2e

_KILLED = -9

# Dropout draws random numbers, checkpoints fall between lines of the log and between epochs.
_DROPOUT: Row = {"r": 4, "alpha": 8, "learning_rate": 0.01, "dropout": 0.1}
_TRAINING: Row = {"epochs": 2, "checkpoint_every": 5, "log_every": 3}

# Each is the moment at which one session dies; the next session goes on from there. With 36
# steps, 14 of them search, checkpoints stand at 5, 10, 14 (twice), 15, 18, 20, ... and 36.
_PEML_MOMENTS = [
    Moment("peml.run.listener.RunListener.on_step", 8),  # in the search
    Moment("peml.run.training.Genotype.save"),  # discretised, nothing saved
    Moment("peml.training.checkpoints.write_tensors", 2),  # half of the next checkpoint written
    Moment("peml.training.checkpoints.CheckpointStore.save_best", after=True),  # not yet named
    Moment("peml.run.listener.RunListener.on_step", 4),  # just after the end of an epoch
    Moment("peml.training.checkpoints.shutil.rmtree"),  # before old checkpoints go
    Moment("peml.records.run.TaskScored.write", 2, after=True),  # two tasks evaluated
    Moment("peml.export.native.write_tensors"),  # half of the model written
    Moment("peml.records.run.Results.write", after=True),  # results, but no report
]


def test_a_run_killed_at_every_kind_of_moment_ends_the_same(toys: Path, tmp_path: Path) -> None:
    method = METHODS["peml"] | {"lora": _DROPOUT}
    rates = {"learning_rates": {"architecture": 0.05, "heads": 0.02}}
    config = toy_config(toys, "encoder", method=method, training=_TRAINING | rates)
    _check_resume(config, tmp_path, _PEML_MOMENTS)
    log = (tmp_path / "killed" / "metrics.jsonl").read_text()
    assert [json.loads(line)["kind"] for line in log.splitlines()].count("discretise") == 1


_SEARCHES: dict[str, Row] = {
    "bilevel": {"optimise": "bilevel", "every": 2, "relaxation": "gumbel"},
    "sampled": {"relaxation": "sampled-path", "optimise": "bilevel"},
    "ranks": {"lora_ranks": [1, 2, 4], "budget": 2500},
    "perturbation": {"discretise": "perturbation", "cooldown": 0.5, "order": "search-first"},
}


@pytest.mark.parametrize("search", _SEARCHES)
def test_a_search_of_any_kind_ends_the_same(toys: Path, tmp_path: Path, search: str) -> None:
    chosen = dict(_SEARCHES[search])
    ranks = chosen.pop("lora_ranks", [])
    method = METHODS["peml"] | {"lora": _DROPOUT, "lora_ranks": ranks, "search": chosen}
    rates = {"learning_rates": {"architecture": 0.05, "heads": 0.02}}
    training = _TRAINING | rates | {"checkpoint_every": 2}
    config = toy_config(toys, "encoder", method=method, training=training)
    moments = [
        Moment("peml.methods.prefix.search.PrefixSearch.before_step", 9),
        Moment("peml.methods.prefix.search.PrefixSearch.before_step", 4, after=True),
        Moment("peml.run.training.Genotype.save"),
        Moment("peml.run.listener.RunListener.on_step", 3),
    ]
    _check_resume(config, tmp_path, moments)


def test_a_text_run_with_accumulation_and_patience_ends_the_same(
    toys: Path, tmp_path: Path
) -> None:
    options: Row = {"accumulation": 2, "evaluate_every": 4, "patience": 2, "keep": "last"}
    method = METHODS["lora+prefix"] | {"lora": _DROPOUT}
    config = toy_config(toys, "seq2seq", method=method, training=_TRAINING | options)
    moments = [
        Moment("peml.run.listener.RunListener.on_step", 7),
        Moment("peml.run.training.TrainingSession._evaluate", 2, after=True),
        Moment("peml.run.evaluation.write_predictions"),
    ]
    _check_resume(config, tmp_path, moments)


_TEXT = "the good dog is on the box and the bad ball is under the man"


@pytest.mark.parametrize(
    ("family", "prefix", "search"),
    [
        ("causal", {"dropout": 0.3}, {"budget": 800}),
        ("encoder", {"start": "text", "text": _TEXT, "dropout": 0.3, "warmup": 0.3}, {}),
    ],
)
def test_texts_budgets_and_dropped_positions_end_the_same(
    family: str, prefix: Row, search: Row, toys: Path, tmp_path: Path
) -> None:
    method = METHODS["peml"] | {"prefix": METHODS["peml"]["prefix"] | prefix, "search": search}
    config = toy_config(toys, family, method=method, training=_TRAINING)
    moments = [
        Moment("peml.run.listener.RunListener.on_step", 8),
        Moment("peml.training.checkpoints.write_tensors", 2),
        Moment("peml.run.listener.RunListener.on_step", 6),
    ]
    _check_resume(config, tmp_path, moments)
    genotype = Genotype.load(tmp_path / "whole" / "genotype.json")
    model = tmp_path / "whole" / "model"
    if search:
        assert count_network(genotype) <= search["budget"]
    assert (model / "prefix.safetensors").is_file()


@pytest.mark.parametrize("strategy", ["uncertainty", "pcgrad"])
def test_balanced_losses_end_the_same(strategy: str, toys: Path, tmp_path: Path) -> None:
    config = toy_config(
        toys,
        "encoder",
        method=METHODS["peml"] | {"lora": _DROPOUT},
        training=_TRAINING | {"balancing": {"strategy": strategy}, "evaluate_every": 6},
    )
    moments = [
        Moment("peml.run.listener.RunListener.on_step", 3),  # nothing saved
        Moment("peml.run.listener.RunListener.on_step", 9),
    ]
    _check_resume(config, tmp_path, moments)
    lines = [json.loads(line) for line in (tmp_path / "killed/metrics.jsonl").open()]
    weighted = [line["task_weights"] for line in lines if line["kind"] == "step"]
    assert all(weighted) is (strategy == "uncertainty")
    saved = [path.read_bytes() for path in (tmp_path / "killed/model").rglob("*.safetensors")]
    assert not any(b"balancing" in content for content in saved)
    drawn = (tmp_path / "killed/report.html").read_text().count('id="fig-balancing"')
    assert drawn == (strategy == "uncertainty")


def test_contexts_drawn_in_every_step_end_the_same(distinct_toys: Path, tmp_path: Path) -> None:
    context = {"shots": 3, "draw": "step"}
    method = {"name": "lora+context", "lora": _DROPOUT, "context": context}
    config = toy_config(distinct_toys, "causal", method=method, training=_TRAINING | {"epochs": 1})
    _check_resume(config, tmp_path, [Moment("peml.run.listener.RunListener.on_step", 8)])


def test_a_search_on_contexts_ends_the_same(distinct_toys: Path, tmp_path: Path) -> None:
    method: Any = METHODS["peml"] | {"context": {"shots": 3}, "lora": _DROPOUT}
    method["prefix"] = METHODS["peml"]["prefix"] | {"dropout": 0.2}
    config = toy_config(distinct_toys, "causal", method=method, training=_TRAINING | {"epochs": 1})
    _check_resume(config, tmp_path, [Moment("peml.run.listener.RunListener.on_step", 4)])


def _check_resume(config: Path, folder: Path, moments: list[Moment]) -> None:
    whole, killed = folder / "whole", folder / "killed"
    assert fit_apart(config, whole) == 0
    for moment in moments:
        assert fit_apart(config, killed, moment) == _KILLED, moment
    assert fit_apart(config, killed) == 0
    assert _deterministic_results(killed) == _deterministic_results(whole)
    assert _bytes(killed) == _bytes(whole)
    assert not list(killed.rglob("*.partial"))
    seconds = json.loads((killed / "results.json").read_text())["cost"]["seconds"]
    expected = json.loads((whole / "results.json").read_text())["cost"]["seconds"]
    assert seconds.keys() == expected.keys()


def _deterministic_results(folder: Path) -> Any:
    results = json.loads((folder / "results.json").read_text())
    for measured in ("seconds", "peak_memory_bytes"):
        del results["cost"][measured]
    return results


def _bytes(folder: Path) -> dict[str, bytes]:
    """What must be the same to the last bit."""
    patterns = ("metrics.jsonl", "genotype.json", "predictions/*", "model/**/*.safetensors")
    files = [path for pattern in patterns for path in folder.glob(pattern)]
    files += folder.glob("checkpoints/*/*.safetensors")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
