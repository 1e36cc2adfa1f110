"""A run that is stopped at an evaluation ends after its checkpoint, and can be gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from peml.config.loading import load_config
from peml.config.model import RunConfig
from peml.records.metrics import Evaluation
from peml.run.folder import RunFolder
from peml.run.listener import RunStopped
from peml.run.pipeline import fit
from tests.e2e.toy import toy_config

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def config(toys: Path) -> RunConfig:
    """18 steps, 7 of them search: evaluated at 4 and 7, and at 8, 12, 16 and 18."""
    return load_config(toy_config(toys, training={"epochs": 1, "evaluate_every": 4}))


@pytest.fixture(scope="module")
def whole(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The run without a stop, and where it was evaluated."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    told: list[str] = []

    def listen(evaluation: Evaluation) -> bool:
        told.append(f"{evaluation.phase} {evaluation.step}")
        return False

    fit(config, folder, on_evaluation=listen)
    return folder, told


def test_every_evaluation_of_both_phases_is_told(whole: tuple[Path, list[str]]) -> None:
    _, told = whole
    assert told == ["search 4", "search 7", "train 8", "train 12", "train 16", "train 18"]


@pytest.mark.parametrize("phase", ["search", "train"])
@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
def test_a_stopped_run_goes_on_to_the_same_end(
    config: RunConfig, whole: tuple[Path, list[str]], tmp_path: Path, phase: str, place: int
) -> None:
    folder, told = whole
    last = [where for where in told if where.startswith(phase)][place]
    seen: list[str] = []

    def stop(evaluation: Evaluation) -> bool:
        seen.append(f"{evaluation.phase} {evaluation.step}")
        return seen[-1] == last

    with pytest.raises(RunStopped) as stopped:
        fit(config, tmp_path / "run", on_evaluation=stop)
    step = stopped.value.evaluation.step
    assert seen == told[: told.index(last) + 1]
    assert list((tmp_path / "run/checkpoints").glob(f"step-{step:07d}-{phase}"))
    # No evaluation of the search is one to keep: its weights are the supernet's.
    assert bool(list((tmp_path / "run/checkpoints").glob("best-*"))) == (phase == "train")
    assert not RunFolder(tmp_path / "run").is_finished
    fit(config, tmp_path / "run")
    for name in ("metrics.jsonl", "genotype.json", "model/prefix.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes(), name
