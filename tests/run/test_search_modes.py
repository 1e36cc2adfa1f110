"""Orders, held-out rows and rules of a search, as they show in a run folder."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from peml.cli import main
from peml.config.loading import load_config
from peml.errors import TrainingError
from peml.run.pipeline import fit
from peml.run.preparation import prepare, with_config
from tests.e2e.toy import METHODS, Row, toy_config

pytestmark = pytest.mark.e2e

_TRAINING: Row = {"epochs": 1, "checkpoint_every": 1, "evaluate_every": 9, "log_every": 1}
_TRAINING |= {"keep_checkpoints": 99, "keep": "last"}


def _config(toys: Path, training: Row | None = None, **search: Any) -> Any:
    method = METHODS["peml"] | {"search": search}
    return load_config(toy_config(toys, method=method, training=training or _TRAINING))


def _log(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def _weights(folder: Path) -> list[tuple[str, int, dict[str, dict[str, Tensor]]]]:
    """Phase, step, and the weights by kind, of every checkpoint in order."""
    found = []
    for path in sorted((folder / "checkpoints").glob("step-*")):
        _, step, phase = path.name.split("-")
        kinds: dict[str, dict[str, Tensor]] = {"lora": {}, "prefix": {}, "logits": {}, "heads": {}}
        for name, value in load_file(path / "trainable.safetensors").items():
            kind = "lora" if ".lora_" in name else "heads" if "heads" in name else "prefix"
            kinds["logits" if name.endswith(".logits") else kind][name] = value
        found.append((phase, int(step), kinds))
    return found


def _moved(folder: Path) -> dict[str, set[str]]:
    """Phase: the kinds of weights that moved between its checkpoints."""
    moved: dict[str, set[str]] = {}
    weights = _weights(folder)
    for (_, _, old), (phase, _, new) in itertools.pairwise(weights):
        for kind, tensors in new.items():
            fits = tensors.keys() == old[kind].keys()  # else the supernet was just replaced
            if fits and any(not torch.equal(tensors[name], old[kind][name]) for name in tensors):
                moved.setdefault(phase, set()).add(kind)
    return moved


_ORDERS: dict[str, dict[str, set[str]]] = {
    "parallel": {
        "search": {"lora", "prefix", "logits", "heads"},
        "train": {"lora", "prefix", "heads"},
    },
    "search-first": {"search": {"prefix", "logits", "heads"}, "train": {"lora", "heads"}},
}


@pytest.mark.parametrize("order", _ORDERS)
def test_an_order_trains_what_it_says_and_as_many_steps(
    toys: Path, tmp_path: Path, order: str
) -> None:
    # With falling rates a group whose time is over would stand even if it didn't rest.
    config = _config(toys, _TRAINING | {"schedule": "constant"}, order=order)
    run = fit(config, tmp_path / "run")
    assert _moved(run.folder) == _ORDERS[order]
    steps = run.results.cost.steps
    assert sum(steps.values()) == prepare(config).steps.total
    assert set(steps) == set(_ORDERS[order])
    before = [kinds for phase, _, kinds in _weights(run.folder) if phase == "search"]
    is_zero = [not value.any() for name, value in before[-1]["lora"].items() if "lora_B" in name]
    assert all(is_zero) == (order == "search-first")


def test_a_schedule_spans_the_phases_its_group_trains_in(toys: Path, tmp_path: Path) -> None:
    run = fit(_config(toys, order="search-first"), tmp_path / "run")
    steps = run.results.cost.steps
    rates = {
        group: [line["learning_rates"].get(group) for line in _log(run.folder, "step")]
        for group in ("lora", "prefix")
    }
    assert rates["lora"][steps["search"]] == pytest.approx(0.01)
    assert rates["lora"][-1] < 0.4 * 0.01
    assert rates["prefix"][steps["search"] - 1] < 0.4 * max(rates["prefix"])


def test_orders_agree_with_projected_gradients(toys: Path, tmp_path: Path) -> None:
    """Groups that rest have no gradient to project."""
    method = METHODS["peml"] | {"search": {"optimise": "bilevel", "order": "search-first"}}
    training = {"epochs": 2, "balancing": {"strategy": "pcgrad"}}
    config = load_config(toy_config(toys, method=method, training=training))
    run = fit(config, tmp_path / "run")
    assert list(run.results.cost.steps) == ["search", "train"]
    assert len(_log(run.folder, "discretise")) == 1


def test_held_out_rows_leave_the_development_split(toys: Path) -> None:
    plain, bilevel = _config(toys), _config(toys, optimise="bilevel", held_out=0.25)
    whole, divided = prepare(plain), prepare(bilevel)
    assert whole.held_out == []
    for split, kept, held in zip(
        whole.development, divided.development, divided.held_out, strict=True
    ):
        assert len(split.encoded) == len(kept.encoded) + len(held)
        assert len(held) == max(1, round(0.25 * len(split.encoded)))
    tasks = divided.plan({}).tasks
    assert [task.held_out for task in tasks] == [len(rows) for rows in divided.held_out]
    assert whole.plan({}).tasks[0].held_out is None
    # The same data for another method: rows are held out only for the search that needs them.
    again = with_config(divided, plain)
    assert [len(split.encoded) for split in again.development] == [
        len(split.encoded) for split in whole.development
    ]
    assert with_config(again, bilevel).plan({}) == divided.plan({})


@pytest.mark.parametrize("rule", ["argmax", "perturbation"])
@pytest.mark.parametrize("cooldown", [0.0, 0.3])
def test_every_rule_records_the_metric_around_the_discretisation(
    toys: Path, tmp_path: Path, rule: str, cooldown: float
) -> None:
    config = _config(toys, discretise=rule, cooldown=cooldown)
    run = fit(config, tmp_path / "run")
    (line,) = _log(run.folder, "discretise")
    assert line["gap"] == pytest.approx(line["hard"]["mean"] - line["soft"]["mean"])
    if cooldown:
        assert line["gap"] == 0  # the supernet of the last step is the network
    free = line["free"]
    assert free["by_weight"] == (rule != "perturbation")
    assert free["step"] == line["step"] - int(cooldown * line["step"])
    last = [each for each in _log(run.folder, "decisions") if each["step"] == free["step"]]
    assert [each["weights"] for each in last] == [free["weights"]]
    assert any(0.5 < max(options.values()) < 0.999 for options in free["weights"].values())
    genotype = json.loads((run.folder / "genotype.json").read_text())
    found_by = genotype["found_by"]
    assert found_by["weights"] == free["weights"]
    assert found_by["discretise"] == rule
    assert ("scores" in found_by) == (rule == "perturbation")
    if rule == "perturbation":
        assert set(found_by["scores"]) == set(found_by["weights"])


def test_a_search_without_rows_to_hold_out_is_refused(toys: Path) -> None:
    config = _config(toys, optimise="bilevel")
    tasks = config.tasks.model_copy(update={"development_rows": 1})
    with pytest.raises(TrainingError, match="no task has any to spare"):
        prepare(config.model_copy(update={"tasks": tasks}))


def test_decisions_that_are_no_numbers_end_the_run_with_the_last_good_checkpoint(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = _TRAINING | {"learning_rates": {"architecture": 1e39}}
    config = toy_config(toys, training=training)
    with pytest.raises(SystemExit) as ended:
        main(["fit", str(config), "--output", str(tmp_path / "run")])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "these decisions are no longer numbers: cell.0" in message
    assert "lower training.learning_rates.architecture" in message
    saved = _weights(tmp_path / "run")
    assert [step for _, step, _ in saved] == [1, 2]  # the logits first move in the third step
    assert all(value.isfinite().all() for value in saved[-1][2]["logits"].values())
