"""Saved models as somebody else may hand them over: altered, every checksum recomputed."""

from __future__ import annotations

import json
from pathlib import Path

from peml.export.saved import digest
from peml.files import checksums, read_json


def reseal(folder: Path, *, with_digest: bool = False) -> None:
    """Recomputes a folder's manifest, as a stranger would after an alteration.

    Args:
        folder: The saved model's.
        with_digest: The digest in ``peml.json`` as well.
    """
    manifest = folder / "manifest.json"
    manifest.unlink(missing_ok=True)
    description = folder / "peml.json"
    if with_digest and description.is_file():
        said = read_json(description) if len(description.read_text()) < 50_000 else None
        if isinstance(said, dict):
            said["digest"] = digest(said, checksums(folder))
            description.write_text(json.dumps(said))
    listed = checksums(folder)
    manifest.write_text(json.dumps({"format": 1, "sha256": listed}))
