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

from pathlib import Path
from typing import Any, ClassVar

from peml.errors import RunError
from peml.export.claims import CONTEXTS_FOLDER, write_context
from peml.export.decoder import DecoderExport, Parts
from peml.export.native import CONTEXTS
from peml.export.source import USE_NATIVE, check_task
from peml.models import TaskModel


class TextExport(DecoderExport):
    """The merged model, and the texts after which it answers like the run's model.

    Keys and values of the adapted model are those of the text that it read, so any engine can serve
    it: one that caches prefixes computes a task's context once.
    """

    name: ClassVar[str] = "text"
    holds_contexts: ClassVar[bool] = True
    recomputed: ClassVar[bool] = True

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

    def parts(self, model: TaskModel) -> Parts:
        """The chosen tasks' texts."""
        return {self.place(name): (n, None) for name, n in self.chosen(model).items()}

    def write_part(self, path: Path, part: Any, task: int, model: TaskModel) -> None:
        """Writes a task's text, its token ids and its prompt's template."""
        write_context(path, model.tasks[task], model)
