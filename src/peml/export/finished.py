"""Where the model of a finished run is."""

from __future__ import annotations

from pathlib import Path

from peml.errors import CheckpointError

__all__ = ["find_model"]


def find_model(path: Path) -> Path:
    """The folder that `save_model` wrote.

    Args:
        path: Run folder, or the ``model`` folder of one.

    Raises:
        CheckpointError: There is no finished model.
    """
    model = path / "model" if (path / "model").is_dir() else path
    if not (model / "peml.json").is_file():
        raise CheckpointError(
            f"{path} holds no finished model",
            allowed="a run folder whose run has ended, or its model/ folder",
            action="run `peml fit` on it to the end first",
        )
    return model
