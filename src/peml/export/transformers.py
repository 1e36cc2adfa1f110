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

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from peml.errors import RunError
from peml.export.claims import CONTEXTS_FOLDER, write_context
from peml.export.decoder import DecoderExport, Parts
from peml.export.source import USE_NATIVE
from peml.files import write_tensors
from peml.injection.inject import injection_of
from peml.injection.rotation import cached_prefix
from peml.models import TaskModel

_SHARED = "past_key_values"


class TransformersExport(DecoderExport):
    """The merged model, and the keys and values before its rows as ``past_key_values``."""

    name: ClassVar[str] = "transformers"
    holds_contexts: ClassVar[bool] = True

    def place(self, task: str) -> str:
        """The task's context, or the shared cache; the file is missing if there is neither."""
        return f"{CONTEXTS_FOLDER}/{task}" if self.has_contexts else _SHARED

    def parts(self, model: TaskModel) -> Parts:
        """The keys and values in front of rows, (layers, 2, kv_heads, length, head_dim)."""
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
            self.place(name): (number, cached_prefix(injection, held))
            for name, (number, held) in self.contexts(model).items()
        }

    def write_part(self, path: Path, part: Tensor, task: int, model: TaskModel) -> None:
        """Writes keys and values; a context also as text."""
        path.parent.mkdir(exist_ok=True)
        keys, values = part.unbind(1)
        write_tensors(path.with_name(f"{path.name}.safetensors"), {"keys": keys, "values": values})
        if self.has_contexts:
            write_context(path, model.tasks[task], model)

    def readme(self, parts: Parts) -> dict[str, Any]:
        """The place of the first cache."""
        return {"place": next(iter(parts), ""), "contexts": self.has_contexts}


@torch.no_grad()
def _of_prompt(model: TaskModel, prompt: Tensor) -> Tensor:
    """The keys and values that the model computes for a prompt in front of its input."""
    cache = model.backbone(inputs_embeds=prompt.float()[None], use_cache=True).past_key_values
    if not all(hasattr(layer, "keys") for layer in cache.layers):
        raise RunError(
            "the model has layers without keys and values (convolutions or state spaces), whose "
            "state after the prompt this format can't hold",
            allowed="models of attention layers",
            action=USE_NATIVE,
        )
    if any(layer.keys.shape[2] < len(prompt) for layer in cache.layers):
        raise RunError(
            f"the model has windows shorter than its prompt of {len(prompt)} vectors, so a cache "
            "has lost the first ones",
            allowed="prompts that fit into every window",
            action="use --format peft",
        )
    return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers])
