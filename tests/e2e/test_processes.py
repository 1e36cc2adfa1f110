"""Two processes train one run: as one does with two batches a step, byte for byte."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from random import Random
from threading import Timer
from typing import Any

import pytest

import peml
from peml.cli import main
from peml.config.loading import load_config
from peml.distributed import World
from peml.errors import ConfigError
from peml.locks import lock_folder
from peml.records.metrics import Evaluation
from peml.run.listener import RunStopped
from peml.run.pipeline import fit as run_fit
from peml.run.together import with_world
from peml.training.loop import TrainingLoop
from tests.e2e.ranks import CAN_SHARD, launch, run_files
from tests.e2e.toy import METHODS, Row, toy_config

pytestmark = pytest.mark.e2e

Whole = Callable[[str], dict[str, bytes]]

_SEARCH = {"optimise": "bilevel", "discretise": "perturbation", "held_out": 0.5}
_DROPOUT = METHODS["lora"]["lora"] | {"dropout": 0.1}
_RUNS: dict[str, tuple[str, Row, Row]] = {
    "peml": ("causal", METHODS["peml"], {}),
    "bilevel": ("encoder", METHODS["peml"] | {"lora": _DROPOUT, "search": _SEARCH}, {}),
    "mtl-lora": (
        "seq2seq",
        {"name": "mtl-lora", "r": 4, "alpha": 8, "learning_rate": 0.01},
        {"training": {"balancing": {"strategy": "pcgrad"}}},
    ),
}
"""Name: family, method and further sections of its config."""
_SHARDINGS = ("none", "fsdp") if CAN_SHARD else ("none",)


def _config(toys: Path, name: str, batches: int) -> Path:
    family, method, sections = _RUNS[name]
    training = sections.get("training", {}) | {"epochs": 1, "evaluate_every": 5, "log_every": 1}
    others = {key: value for key, value in sections.items() if key != "training"}
    options: Any = others | {"training": training | {"accumulation": batches}}
    return toy_config(toys, family, method, **options)


def _fit_all(configs: dict[str, Path], folder: Path) -> None:
    for name, config in configs.items():
        peml.fit(config, folder / name)


def _stop(evaluation: Evaluation) -> bool:
    return evaluation.step >= 5


def _fit_and_stop(config: Path, folder: Path) -> None:
    with pytest.raises(RunStopped):
        run_fit(load_config(config), folder, on_evaluation=_stop)


def _command(*words: str) -> None:
    main(list(words))


def _elsewhere(folder: Path, *words: str) -> None:
    os.chdir(folder)
    main(list(words))


def _killed(step: int, delay: float, *words: str) -> None:
    """The command, killed so many seconds after it has begun a step."""
    whole = TrainingLoop._step

    def step_or_die(loop: TrainingLoop, phase: Any) -> None:
        if loop.progress.step == step:
            kill = partial(os.kill, os.getpid(), signal.SIGKILL)
            Timer(delay, kill).start() if delay else kill()
        whole(loop, phase)

    pytest.MonkeyPatch().setattr(TrainingLoop, "_step", step_or_die)
    main(list(words))


def _with_another_version(*words: str) -> None:
    pytest.MonkeyPatch().setattr(
        "peml.run.together.read_versions", lambda names: {name: f"{name} 0.1" for name in names}
    )
    main(list(words))


def _on_a_full_disk(name: str, cache: Path | None, *words: str) -> None:
    """The command, where nothing can be written that has a name in its path."""
    sync, replace = os.fsync, Path.replace

    def check(path: Path) -> None:
        if name in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")

    def checked_sync(file: int) -> None:
        check(Path(f"/proc/self/fd/{file}").readlink())
        sync(file)

    def checked_replace(path: Path, target: Path) -> Path:
        check(Path(target))
        return replace(path, target)

    if cache is not None:
        os.environ["PEML_CACHE"] = str(cache)
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", checked_sync)
    patch.setattr(Path, "replace", checked_replace)
    main(list(words))


def _held_up(until: Path, *words: str) -> None:
    """The command, which takes its sixth step when a file is there."""
    whole = TrainingLoop._step

    def step(loop: TrainingLoop, phase: Any) -> None:
        while loop.progress.step == 5 and not until.exists():
            time.sleep(0.01)
        whole(loop, phase)

    pytest.MonkeyPatch().setattr(TrainingLoop, "_step", step)
    main(list(words))


@pytest.fixture(scope="module")
def whole(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Runs of one process with two batches a step, made when first asked for."""

    @cache
    def run(name: str) -> dict[str, bytes]:
        folder = tmp_path_factory.mktemp("whole") / name
        peml.fit(_config(toys, name, 2), folder)
        return run_files(folder)

    return run


def test_two_processes_make_what_one_makes(toys: Path, tmp_path: Path, whole: Whole) -> None:
    """Search by one batch and by held-out rows, PCGrad, dropout."""
    single = {name: _config(toys, name, 1) for name in _RUNS}
    for code, log in launch([partial(_fit_all, single, tmp_path / "two")] * 2, tmp_path):
        assert code == 0, log
    for name in _RUNS:
        assert run_files(tmp_path / "two" / name) == whole(name), name


def test_a_run_goes_on_in_another_number_of_processes(
    toys: Path, tmp_path: Path, whole: Whole
) -> None:
    config = _config(toys, "peml", 1)
    for code, log in launch([partial(_fit_and_stop, config, tmp_path / "less")] * 2, tmp_path):
        assert code == 0, log
    peml.fit(config, tmp_path / "less")
    assert run_files(tmp_path / "less") == whole("peml")
    with pytest.raises(ConfigError, match="3 processes can't share"):
        with_world(load_config(config), World(0, 3), begun=2)
    config = _config(toys, "peml", 2)
    _fit_and_stop(config, tmp_path / "more")
    for code, log in launch([partial(_fit_all, {"more": config}, tmp_path)] * 2, tmp_path):
        assert code == 0, log
    assert run_files(tmp_path / "more") == whole("peml")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("sharding", _SHARDINGS)
def test_a_killed_process_ends_the_others(
    rank: int, sharding: str, toys: Path, tmp_path: Path, whole: Whole
) -> None:
    config, folder = _config(toys, "peml", 1), tmp_path / "run"
    settings = ("training.checkpoint_every=2", f"model.sharding={sharding}")
    words = ["fit", str(config), "--output", str(folder)]
    words += [word for setting in settings for word in ("--set", setting)]
    works = [partial(_command, *words)] * 2
    works[rank] = partial(_killed, 7, 0.0, *words)
    ended = launch(works, tmp_path)
    assert ended[rank][0] == -signal.SIGKILL
    code, log = ended[1 - rank]
    assert code > 0
    assert log.count("another process of this run has ended") == (1 if rank else 0)
    assert list(folder.glob("checkpoints/step-*"))
    for code, log in launch([partial(_command, *words)] * 2, tmp_path):
        assert code == 0, log
    assert run_files(folder) == whole("peml")


@pytest.mark.kill
@pytest.mark.parametrize("number", range(20))
def test_a_run_killed_anywhere_goes_on(
    number: int, toys: Path, tmp_path: Path, whole: Whole
) -> None:
    """In a step, an evaluation, a checkpoint, the discretisation or the export."""
    draw = Random(number)
    # Not in the last step: rank 1 ends within milliseconds of it.
    rank, step, delay = draw.randrange(2), draw.randrange(11), draw.uniform(0.001, 0.2)
    config, folder = _config(toys, "peml", 1), tmp_path / "run"
    settings = ("training.checkpoint_every=1", f"model.sharding={draw.choice(_SHARDINGS)}")
    words = ["fit", str(config), "--output", str(folder)]
    words += [word for setting in settings for word in ("--set", setting)]
    works = [partial(_command, *words)] * 2
    works[rank] = partial(_killed, step, delay, *words)
    ended = launch(works, tmp_path)
    assert ended[rank][0] == -signal.SIGKILL, ended[rank]
    code, log = ended[1 - rank]
    assert code > 0
    assert log.count("another process of this run has ended") + log.count("error: ") <= 2, log
    assert "Traceback" not in log
    for code, log in launch([partial(_command, *words)] * 2, tmp_path):
        assert code == 0, log
    assert run_files(folder) == whole("peml")


def _refused(
    works: Sequence[Callable[[], None]], folder: Path, *said: str, rank: int | None = None
) -> None:
    """All processes end with an error, of which one says why."""
    ended = launch(works, folder)
    assert all(code > 0 for code, _ in ended)
    logs = "".join(log for _, log in ended)
    assert logs.count("error: ") == 1, logs
    for words in said:
        assert words in logs
    if rank:
        assert f"process {rank}: error: " in ended[rank][1]


def test_what_can_t_work_is_said_once(toys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = str(_config(toys, "peml", 1))
    words = ("fit", config, "--output", str(folder))
    plain = partial(_command, *words)
    other = partial(_command, *words, "--set", "training.epochs=2")
    _refused([plain, other], tmp_path, "process 1: config.training.epochs was 1.0 and is 2.0")
    old = partial(_with_another_version, *words)
    _refused([plain, old], tmp_path, "process 1: version.peft was", "is 'peft 0.1'")
    three = partial(_command, *words, "--set", "training.accumulation=3")
    _refused([three] * 2, tmp_path, "a step has 3 batches", "a multiple of 2")
    compare = partial(_command, "compare", config)
    _refused([compare] * 2, tmp_path, "`peml compare` was started in 2 processes")
    with lock_folder(folder):
        _refused([plain] * 2, tmp_path, "another process is working in")
    (tmp_path / "empty").mkdir()
    data = (*words, "--set", "tasks.source=data")
    there, lost = (partial(_elsewhere, at, *data) for at in (toys, tmp_path / "empty"))
    _refused([there, lost], tmp_path, "data", rank=1)
    assert [path.name for path in folder.iterdir()] == [".lock"]  # nothing was begun


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells an open file's name")
def test_a_full_disk_is_said_once_and_the_run_goes_on(
    toys: Path, tmp_path: Path, whole: Whole
) -> None:
    folder, own = tmp_path / "run", tmp_path / "own"
    config = str(_config(toys, "peml", 1))
    words = ("fit", config, "--output", str(folder), "--set", "training.checkpoint_every=2")
    plain = partial(_command, *words)
    cache = partial(_on_a_full_disk, str(own), own, *words)
    _refused([plain, cache], tmp_path, str(own), "the disk is full", rank=1)
    full = partial(_on_a_full_disk, "step-0000006", None, *words)
    _refused([full, plain], tmp_path, "step-0000006", "the disk is full")
    assert (
        sorted(path.name[:12] for path in folder.glob("checkpoints/step-*"))[-1] == "step-0000005"
    )
    for code, log in launch([plain] * 2, tmp_path):
        assert code == 0, log
    assert run_files(folder) == whole("peml")


def test_a_second_launch_on_a_folder_is_refused(toys: Path, tmp_path: Path, whole: Whole) -> None:
    folder, logs, go = tmp_path / "run", tmp_path / "first", tmp_path / "go"
    logs.mkdir()
    words = ("fit", str(_config(toys, "peml", 1)), "--output", str(folder))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(launch, [partial(_held_up, go, *words)] * 2, logs)
        try:
            while not list(folder.glob("checkpoints/step-*")) and not first.done():
                time.sleep(0.05)
            _refused([partial(_command, *words)] * 2, tmp_path, "another process is working in")
        finally:
            go.touch()
        for code, log in first.result():
            assert code == 0, log
    assert run_files(folder) == whole("peml")


def test_a_launcher_starts_the_command(toys: Path, tmp_path: Path, whole: Whole) -> None:
    words = ["fit", str(_config(toys, "peml", 1)), "--output", str(tmp_path / "run")]
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "peml"]
    ended = subprocess.run(
        [sys.executable, "-m", *launcher, *words], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("trainable parameters: ") == 1
    assert "of 2 batches each" in ended.stdout
    assert run_files(tmp_path / "run") == whole("peml")
