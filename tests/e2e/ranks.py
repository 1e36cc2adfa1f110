"""The processes of a run, each forked from a server that has imported everything."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers.distributed.configuration_utils import DistributedConfig

from peml.execution.processes import WARM

_CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
_PATIENCE = 120.0  # seconds
CAN_SHARD = "fsdp_plan" in inspect.signature(DistributedConfig).parameters
"""Whether the installed Transformers shards models: the oldest allowed one doesn't."""

_SAME = ("metrics.jsonl", "predictions", "evaluation", "genotype.json", "model")


def launch(works: Sequence[Callable[[], None]], folder: Path) -> list[tuple[int, str]]:
    """Runs each work in a process of its own, as a launcher would start them together.

    Args:
        works: By rank; what can be pickled.
        folder: Takes what they print.

    Returns:
        The exit code of each, and what it printed.
    """
    if sys.platform == "linux":
        _CONTEXT.set_forkserver_preload([WARM])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [folder / f"rank-{rank}.log" for rank in range(len(works))]
    processes = [
        _CONTEXT.Process(target=_work, args=(work, rank, len(works), port, log))
        for rank, (work, log) in enumerate(zip(works, logs, strict=True))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(_PATIENCE)
        assert process.exitcode is not None, "it has not ended"
    return [
        (process.exitcode, log.read_text(encoding="utf-8"))
        for process, log in zip(processes, logs, strict=True)
    ]


def run_files(folder: Path) -> dict[str, bytes]:
    """What has to be the same, without what says where the run is and how long it took."""
    found = {}
    for name in _SAME:
        path = folder / name
        inside = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in inside:
            if file.suffix in (".jsonl", ".parquet", ".safetensors") or path.is_file():
                found[str(file.relative_to(folder))] = file.read_bytes()
    assert len(found) >= 6
    return found


def _work(work: Callable[[], None], rank: int, size: int, port: int, log: Path) -> None:
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        | {"LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        | {"OMP_NUM_THREADS": "1", "PEML_CACHE": str(log.parent / "cache")}
    )
    work()
