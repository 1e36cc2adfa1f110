"""The conformance suite of export formats."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch

from peml.errors import PemlError
from peml.export import EXPORTS, export_model, save_model
from peml.files import checksums
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.testing.models import save_tiny_model
from peml.testing.tasks import TINY_TASKS, batch_of, tasks_with_contexts


class ExportSuite:
    """Checks an export format. Subclass it in a test file::

        class TestMine(ExportSuite):
            name = "mine"

    `model`, a name in ``TINY_FAMILIES``, and `method`, a config section, are those of a run that it
    can export.
    """

    name: ClassVar[str]
    model: ClassVar[str] = "llama"
    method: ClassVar[Mapping[str, Any]] = {"name": "lora", "lora": {"r": 2}}

    def finished(self, folder: Path) -> Path:
        """The ``model`` folder of a finished run, with all trained weights changed."""
        base = save_tiny_model(self.model, folder / "base")
        settings = parse_method(self.method)
        tasks = TINY_TASKS if build_method(settings).context is None else tasks_with_contexts()
        model = TaskModel(load_backbone(ModelSettings(name=str(base), max_length=64)), tasks)
        context = AttachContext(seed=0, calibrate=lambda: model(batch_of(model)), total_steps=9)
        attached = build_method(settings).attach(model, context)
        noise = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for group in attached.groups():
                for parameter in group.parameters:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
        save_model(attached, folder / "model", settings)
        return folder / "model"

    def test_writes_what_it_names(self, tmp_path: Path) -> None:
        """The written folders exist, there is a README, and the run's model is unchanged."""
        model, out = self.finished(tmp_path), tmp_path / "out"
        before = checksums(model)
        folders = export_model(model, out, self.name)
        assert folders, "write() names no folder to load"
        for folder in folders:
            assert folder.is_dir(), f"{folder} is named and not there"
            assert folder == out or out in folder.parents
        assert (out / "README.md").read_text(encoding="utf-8").strip()
        assert checksums(model) == before

    def test_verify_notices_damage(self, tmp_path: Path) -> None:
        """A file that is cut in half is refused, and no folder is left."""
        model, out = self.finished(tmp_path), tmp_path / "out"
        chosen = EXPORTS.load(self.name, "")
        write = chosen.write

        def cut(export: Any, folder: Path) -> Any:
            named = write(export, folder)
            files = [path for path in folder.rglob("*") if path.is_file()]
            largest = max(files, key=lambda path: path.stat().st_size)
            largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
            return named

        with mock.patch.object(chosen, "write", cut):
            try:
                export_model(model, out, self.name)
            except PemlError:
                assert not out.exists(), "a folder is left of an export that was refused"
            else:
                raise AssertionError("verify() passes a file that is cut in half")
