"""Checkpoints of the trained weights only: safetensors and JSON, written atomically."""

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
    """Everything a run needs to resume.

    Attributes:
        trainable: The trained weights, without the frozen ones.
        optimizer: Moments, see `optimizer_state`.
        extra: Random states and the search's state.
        state: Phase, progress, position in the data and so on, as JSON.
    """

    trainable: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    extra: dict[str, Tensor]
    state: dict[str, Any]


_TENSORS = ("trainable", "optimizer", "extra")


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run.

    ``folder`` is ``checkpoints/`` of the run folder; the ``keep`` newest ones stay.
    """

    folder: Path
    keep: int

    def save(self, step: int, phase: str, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, then removes all but the newest ones.

        The phase is part of the name (``search`` sorts before ``train``), so that the last
        checkpoint of the search and the first one after it can have the same step.
        """
        with atomic_folder(self.folder / f"step-{step:07d}-{phase}") as partial:
            for name in _TENSORS:
                write_tensors(partial / f"{name}.safetensors", getattr(checkpoint, name))
            write_json(partial / "state.json", checkpoint.state)
        self._drop_old()

    def _drop_old(self) -> None:
        for old in self._steps()[: -self.keep]:
            shutil.rmtree(old)

    def load_latest(self) -> Checkpoint | None:
        """The newest checkpoint with its files verified, or None.

        Older ones that a kill left behind are removed.

        Raises:
            CheckpointError: It is incomplete or was changed.
        """
        steps = self._steps()
        if not steps:
            return None
        folder = steps[-1]
        verify_manifest(
            folder, f"restore the file, or delete {folder} to use the checkpoint before it"
        )
        self._drop_old()
        tensors = {name: read_tensors(folder / f"{name}.safetensors") for name in _TENSORS}
        return Checkpoint(**tensors, state=read_json(folder / "state.json"))

    def save_best(self, step: int, trainable: Mapping[str, Tensor]) -> None:
        """Saves the weights of the best evaluation so far.

        Older ones stay until `drop_bests_but` is called, after the checkpoint that names this one.
        """
        with atomic_folder(self.folder / f"best-{step:07d}") as partial:
            write_tensors(partial / "trainable.safetensors", trainable)

    def load_best(self, step: int) -> dict[str, Tensor]:
        """The weights saved at an evaluation."""
        folder = self.folder / f"best-{step:07d}"
        verify_manifest(folder, "restore the file, or start a new run folder")
        return read_tensors(folder / "trainable.safetensors")

    def drop_bests_but(self, step: int) -> None:
        """Removes the saved weights of all other evaluations."""
        for folder in self.folder.glob("best-*"):
            if folder.name != f"best-{step:07d}":
                shutil.rmtree(folder)

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def random_state() -> dict[str, Tensor]:
    """State of torch's random generators, from which dropout draws."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def load_random_state(state: Mapping[str, Tensor]) -> None:
    """Restores a `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
