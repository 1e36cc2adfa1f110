"""The exports of a merged decoder: its files, parts beside it, and the check of its answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from peml.export.claims import Claims
from peml.export.format import ExportFormat
from peml.export.native import load_saved
from peml.export.readme import write_readme
from peml.export.source import check_task, refuse_task, refuse_unmerged
from peml.injection.inject import injection_of
from peml.models import TaskModel
from peml.prefix.prefix import Prefix

Parts = Mapping[str, tuple[int, Any]]
"""By place in the folder: the index of a task that uses the part, and the part."""


class DecoderExport(ExportFormat):
    """A merged decoder as Transformers saves it, with the parts that its rows need beside it.

    Attributes:
        name: The format, and the name of its README's template unless `template` is set.
        recomputed: Whether the other tool computes keys and values that the run stored rounded.
    """

    name: ClassVar[str]
    reader: ClassVar[str | None] = "decoder"
    template: ClassVar[str] = ""
    recomputed: ClassVar[bool] = False
    _claims: Claims

    def write_model(self, folder: Path, model: TaskModel) -> None:
        """Writes the merged model."""
        self.saved.copy("backbone", folder)

    def parts(self, model: TaskModel) -> Parts:
        """The parts beside the merged model; refuses those that the format can't hold."""
        return {}

    def write_part(self, path: Path, part: Any, task: int, model: TaskModel) -> None:
        """Writes a part at its place."""
        raise NotImplementedError

    def readme(self, parts: Parts) -> dict[str, Any]:
        """What the README's template shows besides the tasks."""
        return {}

    def check(self) -> None:
        """Refuses a model that isn't a merged decoder, and a task that has no part of its own."""
        refuse_unmerged(self.saved, self.name)
        if self.has_contexts:
            check_task(self.saved, self.task)
        else:
            refuse_task(self.task, self.name)

    def check_model(self, model: TaskModel) -> None:
        """Refuses parts that the format can't hold."""
        self.parts(model)

    def write(self, folder: Path) -> Sequence[str]:
        """Writes the merged model, its parts and a README."""
        model = load_saved(self.saved, trust_remote_code=self.trust_remote_code)
        self.write_model(folder, model)
        self._claims = Claims.of(model, recomputed=self.recomputed)
        parts = self.parts(model)
        for place, (task, part) in parts.items():
            self.write_part(folder / place, part, task, model)
            self._claims.add(place, task)
        if not parts:
            self._claims.add("")
        shown = {"tasks": self.task_names, **self.readme(parts)}
        write_readme(folder, self.template or self.name, self.saved, model, **shown)
        return [".", *(place for place in parts if (folder / place).is_dir())]

    def verify(self, folder: Path) -> str:
        """Compares logits and greedy texts with the run's, in a process without PEML."""
        assert self.reader is not None
        return self._claims.check(self.reader, folder, trust_remote_code=self.trust_remote_code)

    def chosen(self, model: TaskModel) -> dict[str, int]:
        """The index of each task that is exported, by its name."""
        names = [task.name for task in model.tasks]
        return {name: names.index(name) for name in self.task_names}

    def contexts(self, model: TaskModel) -> dict[str, tuple[int, Prefix]]:
        """The context of each task that is exported, with the task's index, by its name."""
        injection = injection_of(model.backbone)
        held = None if injection is None else injection.contexts
        if held is None:
            return {}
        found = {name: (n, held.of(n)) for name, n in self.chosen(model).items()}
        return {name: (n, context) for name, (n, context) in found.items() if context is not None}
