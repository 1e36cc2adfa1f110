"""Adapter-only checkpoints: safetensors and JSON, written atomically, the newest few kept."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peml.files import (
    atomic_folder,
    read_json,
    read_tensors,
    verify_manifest,
    write_json,
    write_tensors,
)


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on.

    Attributes:
        trainable: Weights that training changes; never the frozen ones.
        optimizer: Moments, see `optimizer_state`.
        extra: Random states and the search's state.
        state: Phase, progress, data position and the like, JSON.
    """

    trainable: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    extra: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: ``checkpoints/`` of the run folder.
        keep: Newest checkpoints kept.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, phase: str, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, then removes the ones that are no longer needed.

        The phase is part of the name (``search`` sorts before ``train``), so that the first
        checkpoint after the search doesn't have to replace the last one of the search.
        """
        with atomic_folder(self.folder / f"step-{step:07d}-{phase}") as partial:
            write_tensors(partial / "trainable.safetensors", checkpoint.trainable)
            write_tensors(partial / "optimizer.safetensors", checkpoint.optimizer)
            write_tensors(partial / "extra.safetensors", checkpoint.extra)
            write_json(partial / "state.json", checkpoint.state)
        for old in self._steps()[: -self.keep]:
            shutil.rmtree(old)

    def load_latest(self) -> Checkpoint | None:
        """The newest checkpoint, its files verified; None where there is none.

        Raises:
            CheckpointError: The newest checkpoint was cut short or altered.
        """
        steps = self._steps()
        if not steps:
            return None
        folder = steps[-1]
        verify_manifest(
            folder, f"delete {folder} to go on from the checkpoint before it, or restore the file"
        )
        return Checkpoint(
            trainable=read_tensors(folder / "trainable.safetensors"),
            optimizer=read_tensors(folder / "optimizer.safetensors"),
            extra=read_tensors(folder / "extra.safetensors"),
            state=read_json(folder / "state.json"),
        )

    def save_best(self, step: int, trainable: Mapping[str, Tensor]) -> None:
        """Keeps the weights of the best evaluation so far.

        Older bests go only with `drop_bests_but`, after the checkpoint that names the new one.
        """
        with atomic_folder(self.folder / f"best-{step:07d}") as partial:
            write_tensors(partial / "trainable.safetensors", trainable)

    def load_best(self, step: int) -> dict[str, Tensor]:
        """The weights kept at an evaluation."""
        folder = self.folder / f"best-{step:07d}"
        verify_manifest(folder, "restore the file, or start a new run folder")
        return read_tensors(folder / "trainable.safetensors")

    def drop_bests_but(self, step: int) -> None:
        """Removes the weights of all evaluations but one."""
        for folder in self.folder.glob("best-*"):
            if folder.name != f"best-{step:07d}":
                shutil.rmtree(folder)

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def random_state() -> dict[str, Tensor]:
    """State of torch's generators (dropout draws from them)."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def load_random_state(state: Mapping[str, Tensor]) -> None:
    """The reverse of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
