"""What a run's config may say of balancing and adaptive shares, and what is said where it can't."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peml.config import load_config
from peml.data import TaskData
from peml.data.adaptive import watched_rows
from peml.data.rows import Rows
from peml.data.sources import Origin
from peml.errors import ConfigError
from peml.evaluation import mean_losses
from peml.run import attach, plan, prepare
from peml.testing import TINY_TASKS
from tests.e2e.toy import Row, toy_config

pytestmark = pytest.mark.e2e

_RATE: Row = {"learning_rates": {"balancing": 0.1}}
_MISSPELT: Row = {"balancing": {"weights": {"mod": 2.0}}}
_ADAPTIVE: Row = {"mixing": {"strategy": "adaptive", "adaptive": {"rows": 4}}}


def test_a_dry_run_knows_the_rate_of_learned_weights(toys: Path) -> None:
    learned = {"balancing": {"strategy": "uncertainty"}} | _RATE
    plan(load_config(toy_config(toys, method="lora", training=learned)))
    config = load_config(toy_config(toys, method="lora", training=_RATE))
    with pytest.raises(ConfigError, match="group 'balancing', which"):
        plan(config)


def test_a_weight_for_a_task_that_is_not_there_is_refused(toys: Path) -> None:
    config = load_config(toy_config(toys, method="lora", training=_MISSPELT))
    with pytest.raises(ConfigError, match=r"balancing\.weights.*'mod'\. Did you mean 'mood'"):
        prepare(config)


@pytest.mark.parametrize("family", ["encoder", "causal", "seq2seq"])
def test_shares_follow_the_mean_training_loss_of_a_few_development_rows(
    toys: Path, family: str
) -> None:
    prepared = prepare(load_config(toy_config(toys, family, "lora", batches=_ADAPTIVE)))
    assert [len(split) for split in prepared.watched] == [
        min(4, len(data.development)) for data in prepared.loaded.data
    ]
    model = attach(prepared, torch.device("cpu"), None)
    found = mean_losses(model, prepared.watched, tokens=60)
    for task_id, split in enumerate(prepared.watched):
        rows = split.rows.read(range(len(split)))
        numbers = torch.arange(len(split)).numpy()
        batch = prepared.stream.collate(rows, [task_id] * len(split), numbers)
        assert found[task_id] == pytest.approx(float(model(batch).loss.detach()), rel=1e-5)


def test_watched_rows_are_spread_over_the_split() -> None:
    rows = Rows.from_list([{"text": "x", "label": n} for n in range(10)])
    data = TaskData(TINY_TASKS[0], rows, rows, rows, Origin("made up"))
    assert watched_rows(data, 4).column("label") == [0, 2, 5, 7]
    assert len(watched_rows(data, 99)) == 10
    untrained = TaskData(TINY_TASKS[0], rows.select([]), rows, rows, Origin("made up"))
    assert len(watched_rows(untrained, 4)) == 0


def test_a_task_without_development_rows_can_not_be_followed() -> None:
    rows = Rows.from_list([{"text": "x", "label": 0}])
    data = TaskData(TINY_TASKS[0], rows, rows.select([]), rows, Origin("made up"))
    with pytest.raises(ConfigError, match="task 'mood' has no development rows"):
        watched_rows(data, 4)
