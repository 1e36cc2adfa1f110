"""Checkpoints of the trained weights only: safetensors and JSON, written atomically."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peml.errors import CheckpointError
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
_OWNER = "run.json"


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run.

    ``folder`` is ``checkpoints/`` of the run folder; the ``keep`` newest ones stay. ``plan`` is the
    run's ``plan.json``, by which a checkpoint knows its run; None: it isn't checked.
    """

    folder: Path
    keep: int
    plan: Path | None = None

    def save(self, step: int, phase: str, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, then removes all but the newest ones.

        The phase is part of the name (``search`` sorts before ``train``), so that the last
        checkpoint of the search and the first one after it can have the same step.
        """
        with atomic_folder(self.folder / f"step-{step:07d}-{phase}") as partial:
            for name in _TENSORS:
                write_tensors(partial / f"{name}.safetensors", getattr(checkpoint, name))
            write_json(partial / "state.json", checkpoint.state)
            self._sign(partial)
        self._drop_old()

    def _drop_old(self) -> None:
        for old in self._steps()[: -self.keep]:
            shutil.rmtree(old)

    def load_latest(self) -> Checkpoint | None:
        """The newest checkpoint with its files verified, or None.

        Older ones that a kill left behind are removed.

        Raises:
            CheckpointError: It is incomplete, was changed, or is another run's.
        """
        steps = self._steps()
        if not steps:
            return None
        folder = steps[-1]
        self._verify(folder, f"delete {folder} to use the checkpoint before it")
        self._drop_old()
        tensors = {name: read_tensors(folder / f"{name}.safetensors") for name in _TENSORS}
        return Checkpoint(**tensors, state=read_json(folder / "state.json"))

    def save_best(self, step: int, trainable: Mapping[str, Tensor]) -> None:
        """Saves the weights of the best evaluation so far.

        Older ones stay until `drop_bests_but` is called, after the checkpoint that names this one.
        """
        with atomic_folder(self.folder / f"best-{step:07d}") as partial:
            write_tensors(partial / "trainable.safetensors", trainable)
            self._sign(partial)

    def load_best(self, step: int) -> dict[str, Tensor]:
        """The weights saved at an evaluation."""
        folder = self.folder / f"best-{step:07d}"
        self._verify(folder, "start a new run folder")
        return read_tensors(folder / "trainable.safetensors")

    def drop_bests_but(self, step: int) -> None:
        """Removes the saved weights of all other evaluations."""
        for folder in self.folder.glob("best-*"):
            if folder.name != f"best-{step:07d}":
                shutil.rmtree(folder)

    def _sign(self, folder: Path) -> None:
        if self.plan is not None:
            write_json(folder / _OWNER, {"plan": _digest(self.plan)})

    def _verify(self, folder: Path, otherwise: str) -> None:
        """Checks a checkpoint's files, and that it is of this run, if it says of which it is."""
        verify_manifest(folder, f"restore the file, or {otherwise}")
        owner = folder / _OWNER
        if self.plan is None or not owner.is_file():
            return
        if read_json(owner).get("plan") != _digest(self.plan):
            raise CheckpointError(
                f"{folder} is of another run than {self.plan}, or that file was changed",
                allowed="the checkpoints and the plan that one run wrote",
                action=f"restore both, or {otherwise}",
            )

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def _digest(plan: Path) -> str | None:
    """A checksum of what a run's plan says, however it is written; None without a plan."""
    if not plan.is_file():
        return None
    said = json.dumps(read_json(plan), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


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
