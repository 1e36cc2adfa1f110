"""What a run's config may say of balancing, and what is said where it can't."""

from __future__ import annotations

from pathlib import Path

import pytest

from peml.config.loading import load_config
from peml.errors import ConfigError
from peml.run.pipeline import plan
from peml.run.preparation import prepare
from tests.e2e.toy import Row, toy_config

pytestmark = pytest.mark.e2e

_RATE: Row = {"learning_rates": {"balancing": 0.1}}
_MISSPELT: Row = {"balancing": {"weights": {"mod": 2.0}}}


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
