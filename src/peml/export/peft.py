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

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig
from torch import Tensor

from peml.errors import RunError
from peml.export.format import ExportFormat
from peml.export.native import load_saved
from peml.export.saved import SavedModel
from peml.export.source import USE_NATIVE, refuse_task, refuse_unmerged
from peml.files import write_tensors, write_text
from peml.injection import injection_of, peft_prompt_embeddings
from peml.models import ModelSettings, load_backbone
from peml.prefix import PrefixShape

_ADAPTER = "adapter"

# Share of the largest logit, in float32. Rounding over dozens of layers stays below; keys that are
# not rotated, or in the wrong head, give far more.
_TOLERANCE = 1e-4


class PeftExport(ExportFormat):
    """A finished run's model in a form that Transformers and PEFT load without PEML.

    Without a prefix or prompt this is only the merged model. PEFT can't express every prefix
    (because of positions, windows, layers without one); those raise an `InjectionError`.
    """

    _inputs: dict[str, Tensor]
    _wanted: Tensor

    def check(self) -> None:
        """Refuses a model that is not a decoder or can't be merged, and the export of one task."""
        refuse_unmerged(self.saved, "peft")
        refuse_task(self.task, "peft")

    def write(self, folder: Path) -> Sequence[str]:
        """Writes the merged model, and the adapter if there is a prefix or prompt."""
        converted = _converted(self.saved, trust_remote_code=self.trust_remote_code)
        adapter, self._inputs, self._wanted = converted
        self.saved.copy("backbone", folder)
        if adapter is not None:
            adapter.write(folder / _ADAPTER, base_model=str(self.out.resolve()))
        write_text(folder / "README.md", _readme(self.saved, adapter))
        return ["."] if adapter is None else [".", _ADAPTER]

    def verify(self, folder: Path) -> str:
        """Compares the exported model's logits with those that the run's model gave in `write`."""
        settings = self.saved.settings(trust_remote_code=self.trust_remote_code)
        difference = _verified(folder, settings, self._inputs, self._wanted)
        return (
            "on two rows of random tokens the logits of the loaded model differed from the run's "
            f"by at most {difference:.1e} (float32)."
        )


@dataclass(frozen=True, slots=True)
class _Adapter:
    """A prefix in the format of PEFT's prefix tuning, or a prompt in that of its prompt tuning.

    Attributes:
        embeddings: For a prefix (prefix_length, layers * 2 * kv_heads * head_dim), keys rotated;
            for a prompt (prompt_length, channels).
        shape: Shape of the model's attention; None for a prompt.
    """

    embeddings: Tensor
    shape: PrefixShape | None = None

    def __str__(self) -> str:
        if self.shape is None:
            return f"a prompt of {len(self.embeddings)} vectors"
        return f"a prefix of {len(self.embeddings)} positions"

    def write(self, folder: Path, base_model: str) -> None:
        """Writes the files that ``PeftModel.from_pretrained`` reads."""
        # PEFT requires layers and heads for a prompt too, but does not use them.
        shape = self.shape or PrefixShape(1, 1, self.embeddings.shape[1])
        # All set here: what PEFT would derive from the model's config is wrong for some models.
        channels = shape.kv_heads * shape.head_dim
        options: dict[str, Any] = {
            "task_type": "CAUSAL_LM",
            "num_virtual_tokens": len(self.embeddings),
            "num_layers": shape.layers,
            "token_dim": channels,
            "num_attention_heads": shape.kv_heads,
            "num_transformer_submodules": 1,
            "inference_mode": True,
            "base_model_name_or_path": base_model,
        }
        config = (
            PromptTuningConfig(**options)
            if self.shape is None
            else PrefixTuningConfig(encoder_hidden_size=channels, **options)
        )
        config.save_pretrained(folder)
        tensors = {"prompt_embeddings": self.embeddings}
        write_tensors(folder / "adapter_model.safetensors", tensors)


def _converted(
    saved: SavedModel, *, trust_remote_code: bool
) -> tuple[_Adapter | None, dict[str, Tensor], Tensor]:
    """The run's model in PEFT's terms, and its logits for random inputs.

    Returns:
        The prefix or prompt, or None; the inputs; the logits at their tokens (tokens, vocabulary).
        The model itself is freed, so that only one is in memory at a time.
    """
    loaded = load_saved(saved, trust_remote_code=trust_remote_code)
    model, prompt = loaded.backbone.float(), loaded.prompt.vectors
    vocabulary = model.get_input_embeddings().num_embeddings
    if prompt is not None:
        inputs = _inputs(vocabulary, padded="right")
        adapter = _Adapter(prompt.float())
        return adapter, inputs, _logits(model, inputs, prompt)
    inputs = _inputs(vocabulary, padded="left")
    injection = injection_of(model)
    if injection is None or injection.prefix is None:
        return None, inputs, _logits(model, inputs)
    embeddings = peft_prompt_embeddings(injection, injection.prefix)
    return _Adapter(embeddings, injection.shape), inputs, _logits(model, inputs)


def _inputs(vocabulary: int, padded: Literal["left", "right"]) -> dict[str, Tensor]:
    """Random tokens, (2, 24); the second row is padded on one side."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (2, 24), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, slice(7) if padded == "left" else slice(-7, None)] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def _logits(model: Any, inputs: dict[str, Tensor], prompt: Tensor | None = None) -> Tensor:
    """Logits at the tokens; without those of a prompt, which PEFT does not remove."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    arguments = inputs
    if prompt is not None:
        rows = prompt.float().expand(len(ids), -1, -1)
        arguments = {
            "inputs_embeds": torch.cat([rows, model.get_input_embeddings()(ids)], 1),
            "attention_mask": torch.cat([mask.new_ones(rows.shape[:2]), mask], 1),
        }
    logits: Tensor = model(**arguments).logits[:, -ids.shape[1] :]
    return logits[mask.bool()]


def _verified(
    folder: Path, settings: ModelSettings, inputs: dict[str, Tensor], wanted: Tensor
) -> float:
    """Largest difference between the logits of the exported model and the run's (``wanted``).

    Raises:
        RunError: It is more than rounding explains.
    """
    stored = settings.model_copy(update={"name": str(folder), "dtype": "float32"})
    model = load_backbone(stored).model
    if (folder / _ADAPTER).is_dir():
        model = PeftModel.from_pretrained(model, folder / _ADAPTER)
    difference = (_logits(model.eval(), inputs) - wanted).abs().max().item()
    largest = wanted.abs().max().item()
    if not difference <= _TOLERANCE * max(1.0, largest):
        raise RunError(
            f"the exported model differs from the run's: logits differ by up to {difference:.2g}; "
            f"the largest logit is {largest:.2g}",
            allowed=f"at most {_TOLERANCE:g} of the largest logit, in float32",
            action=f"{USE_NATIVE}; and please report the model's type; nothing was written",
        )
    return difference


def _readme(saved: SavedModel, adapter: _Adapter | None) -> str:
    lines = [
        f"# {saved.description.base_model}, trained with `{saved.method_name}`",
        "",
        "The merged model, as Transformers saves it"
        + (
            "."
            if adapter is None
            else f", and in `{_ADAPTER}/` {adapter}, as PEFT saves it. Without "
            "the adapter, a part of the trained model is missing."
        ),
        "",
        "```python",
        *([] if adapter is None else ["from peft import PeftModel"]),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
    ]
    if adapter is not None:
        lines += [f'model = PeftModel.from_pretrained(model, "FOLDER/{_ADAPTER}")']
    tasks = ", ".join(f"`{task.name}`" for task in saved.description.tasks)
    lines += ["```", ""]
    if adapter is not None and adapter.shape is None:
        lines += [
            "PEFT puts a prompt before any padding: pad rows on the right, or not at all.",
            "",
        ]
    lines.append(f"Tasks: {tasks}. One model for all of them; it needs no task name.")
    return "\n".join(lines) + "\n"
