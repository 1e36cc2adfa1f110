"""A trained decoder as a plain Transformers model, with each task's context as text.

::

    OUT/
      config.json, model.safetensors, tokenizer.json, ...   the merged model
      contexts/
        TASK.txt           the text in front of the prompts of a task's rows
        TASK.json          its token ids, and the template of the row's prompt
      README.md            how to use them
      manifest.json        checksum of every file
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from peml.errors import RunError
from peml.export.claims import CONTEXTS_FOLDER, Claims, write_context
from peml.export.format import ExportFormat
from peml.export.native import CONTEXTS, load_saved
from peml.export.readme import write_readme
from peml.export.source import USE_NATIVE, check_task


class TextExport(ExportFormat):
    """The merged model, and the texts after which it answers like the run's model.

    Keys and values of the adapted model are those of the text that it read, so any engine can serve
    it: one that caches prefixes computes a task's context once.
    """

    holds_contexts: ClassVar[bool] = True
    reader: ClassVar[str | None] = "decoder"
    _claims: Claims

    def place(self, task: str) -> str:
        """The task's text."""
        return f"{CONTEXTS_FOLDER}/{task}"

    def check(self) -> None:
        """Refuses a model without contexts, with those of the frozen model, or with other parts."""
        problem, allowed = "", "models trained with method.context.of: adapted"
        method, family = self.saved.method(), self.saved.description.model.family
        context = method.context
        beside = sorted(
            name
            for name in self.saved.files
            if name.endswith(".safetensors") and "/" not in name and name != CONTEXTS
        )
        if context is None:
            problem = f"the method {self.saved.method_name!r} has no contexts to write as text"
        elif context.of != "adapted":
            problem = (
                "the contexts are keys and values of the base model (method.context.of: "
                f"{context.of}), and the merged model would read the same text differently"
            )
        elif method.corrects_contexts:
            problem = (
                "the contexts were trained after they were computed: their keys and values are "
                "those of no text"
            )
            allowed = "models whose contexts are not trained (method.correction.trains: none)"
        elif family != "causal":
            problem = f"the family {family!r} reads a context by itself, not in front of the row"
            allowed = "decoder-only models (the family 'causal')"
        elif beside:
            problem = f"the model is more than merged weights and contexts: {', '.join(beside)}"
            allowed = "models without these"
        if problem:
            raise RunError(problem, allowed=allowed, action=USE_NATIVE)
        check_task(self.saved, self.task)

    def write(self, folder: Path) -> Sequence[str]:
        """Writes the merged model, and the chosen tasks' texts."""
        model = load_saved(self.saved, trust_remote_code=self.trust_remote_code)
        self.saved.copy("backbone", folder)
        self._claims = Claims.of(model, recomputed=True)
        for number, task in enumerate(model.tasks):
            if self.task in (None, task.name):
                place = f"{CONTEXTS_FOLDER}/{task.name}"
                write_context(folder / place, task, model)
                self._claims.add(place, number)
        write_readme(folder, "text", self.saved, tasks=self.task_names)
        return ["."]

    def verify(self, folder: Path) -> str:
        """Compares logits after the text with the run's, in a process without PEML."""
        return self._claims.check("decoder", folder, trust_remote_code=self.trust_remote_code)
