"""The controls of a study of contexts differ from it in their demonstrations alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from peml.comparison.settings import load_comparison
from peml.data import TaskData
from peml.errors import ConfigError
from peml.run.preparation import prepare
from peml.tasks import SOURCE_ROW, TaskRenderer
from peml.tasks.template import BETWEEN
from peml.testing import save_tiny_model
from tests.benchmarks.conftest import Script

SHOTS = 4


@pytest.fixture
def study(tmp_path: Path, source: Path) -> Path:
    path = tmp_path / "study.yaml"
    tasks = {"suite": "glue", "include": ["sst2", "mrpc"], "source": str(source), "rows": 20}
    config = {
        "run": {
            "model": {"name": str(save_tiny_model("llama", tmp_path / "llama"))},
            "tasks": tasks | {"evaluation_rows": 5, "development_rows": 4, "leakage": "drop"},
        },
        "methods": {
            "lora": {},
            "held": {"name": "lora+context", "context": {"shots": SHOTS}},
        },
        "tuning": None,
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def _loaded(study: Path, suite: str) -> tuple[TaskData, ...]:
    """What a run of the method with a context gets."""
    config = load_comparison(study)
    return prepare(config.run_config(suite, config.methods["held"], seed=0)).loaded.data


def _rows(item: TaskData, split: str) -> list[Any]:
    return [{k: v for k, v in row.items() if k != SOURCE_ROW} for row in getattr(item, split)]


def _contexts(data: tuple[TaskData, ...]) -> list[list[str]]:
    """The demonstrations of each task."""
    return [TaskRenderer(item.task).context().split(BETWEEN) for item in data]


def _parted(texts: list[str]) -> tuple[list[str], list[str]]:
    """Questions and answers."""
    pairs = [text.rsplit(" ", 1) for text in texts]
    return [question for question, _ in pairs], [answer for _, answer in pairs]


def test_controls_keep_the_rows_and_change_the_demonstrations(
    script: Script, tmp_path: Path, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "controls"
    script("context_controls").main([str(study), str(out)])
    assert capsys.readouterr().out.split() == ["peml", "compare", str(out / "study.yaml")]
    whole = _loaded(study, "glue")
    shown = _contexts(whole)
    held = {
        control: _loaded(out / "study.yaml", control)
        for control in ("right", "other-task", "wrong-labels", "shuffled-labels")
    }
    for data in held.values():
        for item, expected in zip(data, whole, strict=True):
            for split in ("train", "development", "reported"):
                assert _rows(item, split) == _rows(expected, split)
    assert _contexts(held["right"]) == shown
    assert _contexts(held["other-task"]) == shown[::-1]
    for wrong, dealt, right in zip(
        _contexts(held["wrong-labels"]), _contexts(held["shuffled-labels"]), shown, strict=True
    ):
        questions, answers = _parted(right)
        assert len(right) == SHOTS
        for changed in (_parted(wrong), _parted(dealt)):
            assert changed[0] == questions
            assert set(changed[1]) == set(answers)
        assert all(a != b for a, b in zip(_parted(wrong)[1], answers, strict=True))
        assert sorted(_parted(dealt)[1]) == sorted(answers)


def test_answers_of_generation_and_of_own_options_are_changed_too(script: Script) -> None:
    controls = script("context_controls")
    texts = [controls.Solved(f"Q{n}", f"a{n}", ()) for n in range(3)]
    own = [controls.Solved(f"Q{n}", f"a{n}", (f"a{n}", f"b{n}")) for n in range(9)]
    for seed in range(5):
        random = controls.Random(seed)
        for solved in (texts, own):
            for each, changed in zip(solved, controls.wrong(solved, random), strict=True):
                assert changed != each.with_answer(each.answer)
        dealt = controls.shuffled(texts, random)
        assert sorted(text[-2:] for text in dealt) == ["a0", "a1", "a2"]
        for each, changed in zip(own, controls.shuffled(own, random), strict=True):
            assert changed in {each.with_answer(option) for option in each.options}


def test_a_context_that_is_drawn_anew_has_no_controls(
    script: Script, tmp_path: Path, study: Path
) -> None:
    main = script("context_controls").main
    with pytest.raises(ConfigError, match="drawn anew"):
        main([str(study), str(tmp_path / "out"), "--set", "methods.held.context.draw=step"])
    with pytest.raises(ConfigError, match="no method lora has a context"):
        main([str(study), str(tmp_path / "out"), "--method", "lora"])
