"""A trained decoder that plain Transformers loads, its prefix or contexts as a key/value cache.

::

    OUT/
      config.json, model.safetensors, tokenizer.json, ...   the merged model
      past_key_values.safetensors       a prefix or prompt, which all rows share
      contexts/TASK.safetensors         or the context of each task's rows,
      contexts/TASK.txt, TASK.json      its text, and its token ids and the row's template
      README.md                         how to load them
      manifest.json                     checksum of every file

In a cache, a prefix moves the tokens' positions; its keys are rotated to compensate
(``injection/rotation.py``). A prompt's keys and values are what the model computes for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from peml.errors import RunError
from peml.export.claims import CONTEXTS_FOLDER, Claims, write_context
from peml.export.format import ExportFormat
from peml.export.native import load_saved
from peml.export.readme import write_readme
from peml.export.source import USE_NATIVE, check_task, refuse_task, refuse_unmerged
from peml.files import write_tensors
from peml.injection import cached_prefix, injection_of
from peml.models import TaskModel

_SHARED = "past_key_values"


class TransformersExport(ExportFormat):
    """The merged model, and the keys and values before its rows as ``past_key_values``."""

    holds_contexts: ClassVar[bool] = True
    reader: ClassVar[str | None] = "decoder"
    _claims: Claims

    def place(self, task: str) -> str:
        """The task's context, or the shared cache; the file is missing if there is neither."""
        return f"{CONTEXTS_FOLDER}/{task}" if self.has_contexts else _SHARED

    def check(self) -> None:
        """Refuses a model that is not a decoder or can't be merged."""
        refuse_unmerged(self.saved, "transformers")
        if self.has_contexts:
            check_task(self.saved, self.task)
        else:
            refuse_task(self.task, "transformers")

    def check_model(self, model: TaskModel) -> None:
        """Refuses a prefix or context that no cache can hold."""
        self._caches(model)

    def write(self, folder: Path) -> Sequence[str]:
        """Writes the merged model, and the caches."""
        model = load_saved(self.saved, trust_remote_code=self.trust_remote_code)
        self.saved.copy("backbone", folder)
        self._claims = Claims.of(model)
        caches = self._caches(model)
        for place, (task, held) in caches.items():
            file = folder / f"{place}.safetensors"
            file.parent.mkdir(exist_ok=True)
            keys, values = held.unbind(1)
            write_tensors(file, {"keys": keys, "values": values})
            if self.has_contexts:
                write_context(folder / place, model.tasks[task], model)
            self._claims.add(place, task)
        if not caches:
            self._claims.add("")
        write_readme(
            folder,
            "transformers",
            self.saved,
            place=next(iter(caches), ""),
            contexts=self.has_contexts,
            tasks=self.task_names,
        )
        return ["."]

    def verify(self, folder: Path) -> str:
        """Compares logits and greedy texts with the run's, in a process without PEML."""
        return self._claims.check("decoder", folder, trust_remote_code=self.trust_remote_code)

    def _caches(self, model: TaskModel) -> dict[str, tuple[int, Tensor]]:
        """By place: index of a task that uses it, and (layers, 2, kv_heads, length, head_dim)."""
        injection, prompt = injection_of(model.backbone), model.prompt.vectors
        prefix = None if injection is None else injection.prefix
        contexts = None if injection is None else injection.contexts
        if sum(part is not None for part in (prefix, contexts, prompt)) > 1:
            raise RunError(
                "the model has more than one of prefix, contexts and prompt",
                allowed="one of them",
                action=USE_NATIVE,
            )
        if prompt is not None:
            return {_SHARED: (0, _of_prompt(model, prompt))}
        if injection is None:
            return {}
        if prefix is not None:
            return {_SHARED: (0, cached_prefix(injection, prefix))}
        return {
            f"{CONTEXTS_FOLDER}/{task.name}": (n, cached_prefix(injection, held))
            for n, task in enumerate(model.tasks)
            if self.task in (None, task.name)
            and contexts is not None
            and (held := contexts.of(n)) is not None
        }


@torch.no_grad()
def _of_prompt(model: TaskModel, prompt: Tensor) -> Tensor:
    """The keys and values that the model computes for a prompt in front of its input."""
    layers = model.backbone(inputs_embeds=prompt.float()[None], use_cache=True).past_key_values
    return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in layers.layers])
