"""A trained decoder as a plain Transformers model, its prefix or prompt as PEFT's adapter beside.

::

    OUT/
      config.json, model.safetensors, tokenizer.json, ...   the merged model
      adapter/
        adapter_config.json        prefix or prompt tuning, as PEFT saves it
        adapter_model.safetensors
      README.md                    how to load what is here
      manifest.json                checksum of every file

PEFT keeps a prefix in the key/value cache and so moves the tokens' positions by its length; where
positions are rotary, the stored keys are turned once to make up for it (``injection/rotation.py``).
A prompt in front of the input embeddings takes positions with PEFT as it does here. But where rows
are padded on the left, PEFT puts it before the padding, so there it answers as here only without
padding, or with padding on the right.
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
from peml.export.source import USE_NATIVE
from peml.files import write_tensors, write_text
from peml.injection import injection_of, peft_prompt_embeddings
from peml.models import ModelSettings, load_backbone
from peml.prefix import PrefixShape

_ADAPTER = "adapter"

# Of the largest logit, in float32. Rounding over dozens of layers stays below; keys that are not
# turned, or sit in the wrong head, are far above.
_TOLERANCE = 1e-4


class PeftExport(ExportFormat):
    """A finished run's model so that Transformers and PEFT alone load it.

    A model without a prefix or prompt is the merged model and nothing else. PEFT can't express
    every prefix (positions, windows, layers without one): such a model is an `InjectionError`.
    """

    _inputs: dict[str, Tensor]
    _wanted: Tensor

    def check(self) -> None:
        """Refuses a model that is no decoder or can't be merged, and a task by itself."""
        _refuse(self.saved, self.task)

    def write(self, folder: Path) -> Sequence[str]:
        """The merged model, and the adapter beside where there is a prefix or a prompt."""
        converted = _converted(self.saved, trust_remote_code=self.trust_remote_code)
        adapter, self._inputs, self._wanted = converted
        self.saved.copy("backbone", folder)
        if adapter is not None:
            adapter.write(folder / _ADAPTER, base_model=str(self.out.resolve()))
        write_text(folder / "README.md", _readme(self.saved, adapter))
        return ["."] if adapter is None else [".", _ADAPTER]

    def verify(self, folder: Path) -> str:
        """Compares with the logits of the run's model, which is let go by then."""
        settings = self.saved.settings(trust_remote_code=self.trust_remote_code)
        difference = _verified(folder, settings, self._inputs, self._wanted)
        return (
            "on two rows of random tokens the logits of the loaded model differed from the run's "
            f"by at most {difference:.1e} (float32)."
        )


@dataclass(frozen=True, slots=True)
class _Adapter:
    """A prefix as PEFT's prefix tuning has it, or a prompt as its prompt tuning does.

    Attributes:
        embeddings: (prefix_length, layers * 2 * kv_heads * head_dim), keys turned; a prompt's:
            (prompt_length, channels).
        shape: Of the model's attention; None for a prompt, which stands at the input.
    """

    embeddings: Tensor
    shape: PrefixShape | None = None

    def __str__(self) -> str:
        if self.shape is None:
            return f"a prompt of {len(self.embeddings)} vectors"
        return f"a prefix of {len(self.embeddings)} positions"

    def write(self, folder: Path, base_model: str) -> None:
        """Writes what ``PeftModel.from_pretrained`` reads."""
        # At the input it is like one layer of one head.
        shape = self.shape or PrefixShape(1, 1, self.embeddings.shape[1])
        # All given: what PEFT would take from the model's config does not hold for every model.
        # (For a prompt, layers and heads are asked for and not used.)
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


def _refuse(saved: SavedModel, task: str | None) -> None:
    """Stops where merged weights and a prefix are not the whole model."""
    name, family = saved.method_name, saved.description.model.family
    merging = saved.method().merging
    problem, allowed, action = "", "methods that merge once", USE_NATIVE
    if merging.how == "per task":
        problem = f"the method {name!r} has weights of its own for each task: {merging.reason}"
        action = "export one adapter per task: --format lora"
    elif merging.how == "never":
        problem = f"the method {name!r} can't be merged: {merging.reason}"
    elif family != "causal":
        problem = f"the model is of the family {family!r}"
        if family == "encoder":
            problem += ", whose heads PEFT's prefix tuning has no place for"
        else:
            problem += "; PEFT's prefix tuning would leave its encoder without the prefix"
        allowed = "decoder-only models (the family 'causal')"
        if saved.has("lora") and "prefix.safetensors" not in saved.files:
            action = "export the LoRA by itself: --format lora"
    elif task is not None:
        problem = f"--task {task}: the merged model and its prefix serve all tasks alike"
        allowed = "no --task with --format peft"
        action = "leave --task out"
    if problem:
        raise RunError(problem, allowed=allowed, action=action)


def _converted(
    saved: SavedModel, *, trust_remote_code: bool
) -> tuple[_Adapter | None, dict[str, Tensor], Tensor]:
    """What the run's model is in PEFT's terms, and what it says to inputs made up for the check.

    Returns:
        The prefix or prompt, or None; the inputs; the logits at their tokens (tokens, vocabulary).
        The model itself is let go, so that only one is in memory at a time.
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
    """Random tokens, (2, 24), the second row padded on a side."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (2, 24), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, slice(7) if padded == "left" else slice(-7, None)] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def _logits(model: Any, inputs: dict[str, Tensor], prompt: Tensor | None = None) -> Tensor:
    """Logits at the tokens; those of a prompt, which PEFT leaves in front, are cut off."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    given = inputs
    if prompt is not None:
        rows = prompt.float().expand(len(ids), -1, -1)
        given = {
            "inputs_embeds": torch.cat([rows, model.get_input_embeddings()(ids)], 1),
            "attention_mask": torch.cat([mask.new_ones(rows.shape[:2]), mask], 1),
        }
    logits: Tensor = model(**given).logits[:, -ids.shape[1] :]
    return logits[mask.bool()]


def _verified(
    folder: Path, settings: ModelSettings, inputs: dict[str, Tensor], wanted: Tensor
) -> float:
    """Largest difference between the logits of what was exported and those of the run's model.

    Raises:
        RunError: It is more than rounding.
    """
    stored = settings.model_copy(update={"name": str(folder), "dtype": "float32"})
    model = load_backbone(stored).model
    if (folder / _ADAPTER).is_dir():
        model = PeftModel.from_pretrained(model, folder / _ADAPTER)
    difference = (_logits(model.eval(), inputs) - wanted).abs().max().item()
    largest = wanted.abs().max().item()
    if not difference <= _TOLERANCE * max(1.0, largest):
        raise RunError(
            f"the exported model would not answer as the run's does: logits differ by up to "
            f"{difference:.2g} where the largest is {largest:.2g}",
            allowed=f"at most {_TOLERANCE:g} of the largest logit, in float32",
            action=f"{USE_NATIVE}; and report the model's type, nothing was written",
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
            "the adapter the model is only half of what was trained."
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
    lines.append(
        f"Tasks: {tasks}. One model for all of them; nothing has to say which task a text is from."
    )
    return "\n".join(lines) + "\n"
