"""A trained decoder as a plain Transformers model, with its prefix or prompt as a PEFT adapter.

::

    OUT/
      config.json, model.safetensors, tokenizer.json, ...   the merged model
      adapter/
        adapter_config.json        prefix or prompt tuning, as PEFT saves it
        adapter_model.safetensors
      README.md                    how to load the model
      manifest.json                checksum of every file

PEFT keeps a prefix in the key/value cache, which moves the tokens' positions by its length; for
rotary positions, the stored keys are rotated once to compensate (``injection/rotation.py``). A
prompt in front of the input embeddings takes positions in PEFT as it does in PEML. But if rows are
padded on the left, PEFT puts the prompt before the padding, so the answers agree only without
padding or with padding on the right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from peft import PrefixTuningConfig, PromptTuningConfig
from torch import Tensor

from peml.export.claims import write_context
from peml.export.decoder import DecoderExport, Parts
from peml.files import write_tensors
from peml.injection.inject import injection_of
from peml.injection.rotation import peft_prompt_embeddings
from peml.models import TaskModel
from peml.prefix.shape import PrefixShape

_ADAPTER = "adapter"


class PeftExport(DecoderExport):
    """A finished run's model in a form that Transformers and PEFT load without PEML.

    Without a prefix or prompt this is only the merged model. PEFT can't express every prefix
    (because of positions, windows, layers without one); those raise an `InjectionError`.
    """

    name: ClassVar[str] = "peft"
    template: ClassVar[str] = "peft"
    reader: ClassVar[str | None] = "peft"

    def place(self, task: str) -> str:
        """The adapter, which all tasks share."""
        return _ADAPTER

    def parts(self, model: TaskModel) -> Parts:
        """The adapter, if there is a prefix or prompt."""
        injection, prompt = injection_of(model.backbone), model.prompt.vectors
        if prompt is not None:
            return {_ADAPTER: (0, Adapter(PromptTuningConfig, prompt.float()))}
        if injection is None or injection.prefix is None:
            return {}
        embeddings = peft_prompt_embeddings(injection, injection.prefix)
        shape = injection.shape
        size = {"encoder_hidden_size": shape.kv_heads * shape.head_dim}
        return {_ADAPTER: (0, Adapter(PrefixTuningConfig, embeddings, shape, size))}

    def write_part(self, path: Path, part: Adapter, task: int, model: TaskModel) -> None:
        """Writes an adapter's folder."""
        part.write(path, base_model=str(self.out.resolve()))
        if self.has_contexts:
            write_context(path / "context", model.tasks[task], model)

    def readme(self, parts: Parts) -> dict[str, Any]:
        """The adapters, and what they are."""
        adapters = {place: adapter for place, (_, adapter) in parts.items()}
        return {
            "adapters": adapters,
            "prompt": any(adapter.shape is None for adapter in adapters.values()),
            "contexts": self.has_contexts,
            "per_task": len(adapters) > 1 or self.task is not None,
        }


@dataclass(frozen=True, slots=True)
class Adapter:
    """A prefix or a prompt as PEFT stores it.

    Attributes:
        config: PEFT's config of this kind.
        embeddings: For a prefix (prefix_length, layers * 2 * kv_heads * head_dim), keys rotated;
            for a prompt (prompt_length, channels).
        shape: Shape of the model's attention; None for a prompt.
        options: Further fields of the config.
    """

    config: Callable[..., Any]
    embeddings: Tensor
    shape: PrefixShape | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.shape is None:
            return f"a prompt of {len(self.embeddings)} vectors"
        return f"a prefix of {len(self.embeddings)} positions"

    def write(self, folder: Path, base_model: str) -> None:
        """Writes the files that ``PeftModel.from_pretrained`` reads."""
        # PEFT requires layers and heads for a prompt too, but does not use them.
        shape = self.shape or PrefixShape(1, 1, self.embeddings.shape[1])
        # All set here: what PEFT would derive from the model's config is wrong for some models.
        config = self.config(
            task_type="CAUSAL_LM",
            num_virtual_tokens=len(self.embeddings),
            num_layers=shape.layers,
            token_dim=shape.kv_heads * shape.head_dim,
            num_attention_heads=shape.kv_heads,
            num_transformer_submodules=1,
            inference_mode=True,
            base_model_name_or_path=base_model,
            **self.options,
        )
        config.save_pretrained(folder)
        tensors = {"prompt_embeddings": self.embeddings}
        write_tensors(folder / "adapter_model.safetensors", tensors)
