"""Any byte of a model folder or an export that is flipped is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peml.errors import CheckpointError
from peml.export import check_export, export_model, open_model
from peml.files import new_folder
from tests.export.trained import run_of

_RUNS = {
    "native": ("bert", "lora"),
    "lora": ("bert", "mtl-lora"),
    "peft": ("llama", "lora+prefix"),
    "onnx": ("bert", "lora+prefix"),
    "cartridge": ("llama", "lora+prefix"),
    "gguf": ("llama", "lora"),
    "text": ("llama", "lora+context"),
    "transformers": ("llama", "lora+context"),
}


def flip(file: Path, place: int, bits: int) -> bytes:
    """Flips bits of a byte; returns the file's content before."""
    before = file.read_bytes()
    changed = bytearray(before)
    changed[place] ^= bits
    file.write_bytes(bytes(changed))
    return before


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("name", list(_RUNS))
def test_a_flipped_byte_of_any_file_is_refused(tmp_path: Path, name: str) -> None:
    run, folder = run_of(*_RUNS[name], tmp_path), tmp_path / "out"
    check: Callable[[Path], object] = check_export
    if name == "native":
        folder, check = run / "model", open_model
    else:
        export_model(run, folder, name)
    check(folder)
    for file in filter(Path.is_file, folder.rglob("*")):
        size = file.stat().st_size
        for place in {0, size // 3, size // 2, size - 1}:
            before = flip(file, place, 1 if place % 2 else 255)
            with pytest.raises(CheckpointError):
                check(folder)
            file.write_bytes(before)
    check(folder)


def test_a_flipped_byte_of_what_was_verified_is_refused(tmp_path: Path) -> None:
    """Every byte of the manifest, the outcome of the comparison among them."""
    found = {"predictions": {"rows": 16, "same": 16, "largest_difference": 0.25}}
    with new_folder(tmp_path / "out", found) as partial:
        (partial / "README.md").write_text("how to load it")
    assert check_export(tmp_path / "out") == found
    manifest = tmp_path / "out/manifest.json"
    for place in range(manifest.stat().st_size):
        before = flip(manifest, place, (1, 4, 255)[place % 3])
        with pytest.raises(CheckpointError):
            check_export(tmp_path / "out")
        manifest.write_bytes(before)
