"""Finds the model of a finished run, from which every export starts."""

from __future__ import annotations

from pathlib import Path

from peml.errors import CheckpointError

USE_NATIVE = "use the run's model/ folder as it is: `peml predict` and peml.load() read it"
"""The action of every refusal: the native format can store every model."""


def find_model(path: Path) -> Path:
    """The folder that `save_model` wrote.

    Args:
        path: Run folder, or the ``model`` folder of one.

    Raises:
        CheckpointError: There is no finished model.
    """
    model = path / "model" if (path / "model").is_dir() else path
    if model != path and model.is_symlink():
        raise CheckpointError(
            f"{model} is a link to {model.resolve()}",
            allowed="a model inside its run folder",
            action="give the folder that the link points to, if that is the model you mean",
        )
    if not (model / "peml.json").is_file():
        raise CheckpointError(
            f"{path} has no finished model",
            allowed="the folder of a finished run, or its model/ folder",
            action="run `peml fit` on it to the end first",
        )
    return model
