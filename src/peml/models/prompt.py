"""A prompt of learnt vectors in front of a model's input embeddings.

::

    right padding   [prompt | tokens | padding]      training, scoring
    left padding    [padding | prompt | tokens]      generation by causal models

The prompt takes positions, so the tokens after it move by its length; its positions are cut from
the model's output, so that heads and losses see the tokens only. With a sliding attention window,
late tokens no longer see the prompt.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from peml.data.batch import TaskBatch
from peml.injection.packing import PackedRows
from peml.switch import Switch


class InputPrompt:
    """The current prompt: one object per model (`TaskModel.prompt`), read in every forward pass."""

    def __init__(self) -> None:
        self._vectors: Tensor | None = None
        self._switch = Switch()

    @property
    def vectors(self) -> Tensor | None:
        """The prompt, (prompt_length, channels); None if none is set, or inside `disabled`."""
        return self._vectors if self._switch.is_on else None

    def set(self, vectors: Tensor | None) -> None:
        """Uses this prompt from the next forward pass on; None removes it.

        `vectors` are (prompt_length, channels), as Transformers' ``inputs_embeds``: after the
        model's scaling of embeddings, before any projection to its hidden size.
        """
        self._vectors = vectors

    def disabled(self) -> AbstractContextManager[None]:
        """Switches the prompt off inside the block."""
        return self._switch.off()


def build_inputs(
    model: Any, batch: TaskBatch, prompt: Tensor | None, *, padded_left: bool = False
) -> dict[str, Any]:
    """The keyword arguments of a Transformers model for a batch, with the prompt in front.

    `prompt` is (prompt_length, channels). If rows are padded on the left, it goes between padding
    and tokens: before the padding, it would leave a sliding window earlier.

    Returns:
        ``attention_mask``, ``token_type_ids`` if the batch has them, and ``input_ids``, or
        ``inputs_embeds`` of shape (sequences, prompt_length + length, channels); packed if the
        batch is, see `PackedRows.inputs`.
    """
    packed = packed_rows(batch, prompt)
    inputs = _padded_inputs(model, batch, prompt, padded_left=padded_left)
    return inputs if packed is None else packed.inputs(inputs)


def packed_rows(batch: TaskBatch, prompt: Tensor | None) -> PackedRows | None:
    """The places of a packed batch's tokens, including the prompt before each row."""
    if batch.packed is None:
        return None
    if prompt is not None:
        return PackedRows.of(_in_front(1, batch.attention_mask, len(prompt)))
    return PackedRows(batch.packed, *batch.attention_mask.shape)


def _padded_inputs(
    model: Any, batch: TaskBatch, prompt: Tensor | None, *, padded_left: bool
) -> dict[str, Tensor]:
    mask, segments = batch.attention_mask, batch.token_type_ids
    inputs = {"attention_mask": mask}
    if segments is not None:
        inputs["token_type_ids"] = segments
    if prompt is None:
        return {"input_ids": batch.input_ids, **inputs}
    # Through the module, not its weight: some models scale their embeddings there.
    tokens = model.get_input_embeddings()(batch.input_ids)
    vectors = prompt.to(device=tokens.device, dtype=tokens.dtype)
    inputs["inputs_embeds"] = torch.cat([vectors.expand(len(tokens), -1, -1), tokens], 1)
    inputs["attention_mask"] = _in_front(1, mask, len(prompt))
    if segments is not None:
        inputs["token_type_ids"] = _in_front(0, segments, len(prompt))
    if not padded_left:
        return inputs
    order = _behind_padding(mask, len(prompt))
    rows = torch.arange(len(mask), device=mask.device)[:, None]
    return {name: value[rows, order] for name, value in inputs.items()}


def cut_prompt(states: Tensor, prompt: Tensor | None) -> Tensor:
    """Drops the prompt's positions of (sequences, prompt_length + length, ...)."""
    return states if prompt is None else states[:, len(prompt) :]


def _in_front(value: int, rows: Tensor, length: int) -> Tensor:
    return torch.cat([rows.new_full((len(rows), length), value), rows], 1)


def _behind_padding(mask: Tensor, length: int) -> Tensor:
    """Source index of each place, (sequences, length + tokens).

    Turns ``[prompt | padding | tokens]`` into ``[padding | prompt | tokens]``.
    """
    padding = mask.shape[1] - mask.sum(1, keepdim=True)
    place = torch.arange(length + mask.shape[1], device=mask.device)[None]
    moved = torch.where(place < padding, place + length, place - padding)
    return torch.where(place < padding + length, moved, place)
