"""Options that were taken out: refused with the reason wherever a config comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from peml.cli import main
from peml.comparison.settings import parse_comparison
from peml.config.grants import dump_shared
from peml.config.loading import load_config, parse_config
from peml.errors import ConfigError
from peml.methods.registry import parse_method
from peml.removed import without_removed
from peml.run.folder import RunFolder
from tests.tuning.studies import MADE_UP, made_up

RUN: dict[str, Any] = {"tasks": {"suite": "demo"}}

KEYS: dict[str, Any] = {
    "search.skip_dropout": 0.3,
    "search.freeze_after": 0.2,
    "search.equal_capacity": True,
    "search.entropy": {"start": 0.0, "end": 0.1},
    "search.beta_decay": {"start": 0.0, "end": 1.0},
    "search.score_batches": 8,
    "search.temperature.shape": "linear",
    "prefix.placement": "input",
}
VALUES: dict[str, str] = {
    "search.relaxation": "straight-through",
    "search.discretise": "pruning",
    "search.order": "lora-first",
    "prefix.start": "random",
}
IDLE: dict[str, Any] = {
    "search": {
        "skip_dropout": 0.0,
        "freeze_after": None,
        "equal_capacity": False,
        "entropy": {"start": 0.0, "end": 0.0},
        "beta_decay": {"start": 0.0, "end": 0.0},
        "score_batches": 4,
        "temperature": {"start": 1.0, "end": 0.1, "shape": "exponential"},
        "relaxation": "softmax",
    },
    "prefix": {"placement": "attention", "start": None},
}
"""What the config of an old run says of them where none was used, and a choice beside."""


def peml(path: str, value: Any, name: str = "peml") -> dict[str, Any]:
    """A method's section with one option."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return {"name": name, **value}


def refusal(parse: Any, *given: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        parse(*given)
    return str(refused.value)


@pytest.mark.parametrize("path", [*KEYS, *VALUES])
def test_what_was_taken_out_is_refused_with_the_reason_and_the_commit(path: str) -> None:
    value = (KEYS | VALUES)[path]
    section = peml(path, value)
    study = MADE_UP | {"run": RUN | {"method": section}}
    compared = {"run": RUN, "methods": {"mine": section, "lora": {}}, "seeds": [0]}
    told = [
        refusal(parse_config, RUN | {"method": section}),
        refusal(lambda: made_up(**study)),
        refusal(parse_comparison, compared),
        refusal(parse_method, section),
    ]
    for message in told:
        assert path in message
        assert "taken out, since " in message
        assert "the last commit that had it is 34dc9a7" in message
        assert "Did you mean" not in message
    assert f"method.{path}" in told[0]
    assert f"methods.mine.{path}" in told[2]
    if path in VALUES:
        assert f"{value!r} was taken out" in told[0]
        assert "; allowed: " in told[0]


def test_an_override_and_a_space_are_refused_alike(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(RUN | {"method": {"name": "peml"}}))
    message = refusal(load_config, file, ["method.search.skip_dropout=0"])
    assert "method.search.skip_dropout: taken out, since" in message
    run = RUN | {"method": {"name": "peml"}}
    for path in ("method.search.skip_dropout", "method.search.entropy.end"):
        message = refusal(lambda path=path: made_up(run=run, space={path: [0.1, 0.2]}))
        assert f"space.{path}: taken out, since" in message
    space = {"method.search.order": ["parallel", "lora-first"]}
    assert "'lora-first' was taken out" in refusal(lambda: made_up(run=run, space=space))


def test_the_folder_of_an_old_run_opens_unless_it_used_what_was_taken_out(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path)
    folder.create(parse_config(RUN | {"method": {"name": "peml"}}))
    file = tmp_path / "config.yaml"
    old = yaml.safe_load(file.read_text())
    for section, options in IDLE.items():
        old["method"][section] |= options
    file.write_text(yaml.safe_dump(old))
    assert folder.config().method.search.relaxation == "softmax"  # type: ignore[attr-defined]
    assert load_config(file) == folder.config()
    message = refusal(load_config, file, ["method.search.skip_dropout=0.0"])
    assert "taken out, since" in message  # only the folder itself may say it
    for path, value in (KEYS | VALUES).items():
        used = yaml.safe_load(file.read_text())
        *sections, last = path.split(".")
        section = used["method"]
        for part in sections:
            section = section[part]
        section[last] = value
        file.write_text(yaml.safe_dump(used))
        assert f"method.{path}" in refusal(folder.config)
        file.write_text(yaml.safe_dump(old))


def test_adaptive_shares_are_refused_unless_an_old_run_only_lists_their_defaults(
    tmp_path: Path,
) -> None:
    for mixing in ({"strategy": "adaptive"}, {"adaptive": {"rate": 2.0}}):
        message = refusal(parse_config, RUN | {"batches": {"mixing": mixing}})
        assert f"batches.mixing.{next(iter(mixing))}" in message
        assert "taken out, since no run showed what adaptive shares do to scores" in message
        assert "the last commit that had it is 7be0e7a" in message
    folder = RunFolder(tmp_path)
    folder.create(parse_config(RUN))
    file = tmp_path / "config.yaml"
    old = yaml.safe_load(file.read_text())
    old["batches"]["mixing"]["adaptive"] = {"rate": 1.0, "bound": 4.0, "rows": 64}
    file.write_text(yaml.safe_dump(old))
    assert folder.config() == parse_config(RUN)
    old["batches"]["mixing"]["strategy"] = "adaptive"
    file.write_text(yaml.safe_dump(old))
    assert "batches.mixing.strategy" in refusal(folder.config)


def test_the_command_line_says_it_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(RUN | {"method": peml("search.order", "prefix-first")}))
    with pytest.raises(SystemExit) as ended:
        main(["config", "show", str(file)])
    assert ended.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "method.search.order: 'prefix-first' was taken out, since it is 4 to 7" in told


def test_what_is_in_use_is_never_dropped() -> None:
    config = parse_config(RUN | {"method": {"name": "peml"}})
    stored = yaml.safe_load(dump_shared(config))
    assert without_removed(stored) == stored
    assert without_removed({"search": {"skip_dropout": 0.3}}) == {"search": {"skip_dropout": 0.3}}


def test_a_prompts_start_is_no_prefixs() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_method({"name": "prompt-tuning", "start": "zero"})
    assert "start: 'zero' is not one of vocabulary, normal" in str(caught.value)
    assert "quiet" not in str(caught.value)
