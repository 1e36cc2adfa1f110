"""Greedy decoding of texts that join and leave a batch between two tokens."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from peml.data.batch import TaskBatch
from peml.injection.difference import unexplained
from peml.models.families.decoding import closing_up
from peml.models.prompt import build_inputs
from peml.models.task_model import TaskModel


class OpenBatch:
    """The keys and values of texts that a decoder writes together, padded on the left.

    ::

        a  a a a a      b joins     a  a a a a a     a leaves     b  b b b
                        ------->    b  . . . b b     ------->

    Every layer keeps all tokens, so that a sliding window is a matter of the mask only.
    """

    def __init__(self, base: TaskModel) -> None:
        self._base = base
        self._taken = inspect.signature(base.backbone.forward).parameters
        self._cache: DynamicCache | None = None
        self._mask = torch.empty(0)
        self._tasks = torch.empty(0)

    @torch.no_grad()
    def join(self, batch: TaskBatch) -> Tensor:
        """Reads new prompts, padded on the left.

        Returns:
            Logits of their first tokens, (prompts, vocabulary) float32.
        """
        inputs = build_inputs(
            self._base.backbone, batch, self._base.prompt.vectors, padded_left=True
        )
        mask, cache = inputs.pop("attention_mask"), DynamicCache()
        logits = self._pass(inputs, mask, cache, batch.task_ids)
        if self._cache is None:
            self._cache, self._mask, self._tasks = cache, mask, batch.task_ids
            return logits
        length = max(mask.shape[1], self._mask.shape[1])
        for layer, new in zip(self._cache.layers, cache.layers, strict=True):
            if layer.keys is not None:  # some models use another layer's keys and values
                layer.keys = torch.cat([_widened(x, length) for x in (layer.keys, new.keys)])
                layer.values = torch.cat([_widened(x, length) for x in (layer.values, new.values)])
        masks = [_widened(x[:, None, :, None], length)[:, 0, :, 0] for x in (self._mask, mask)]
        self._mask = torch.cat(masks)
        self._tasks = torch.cat([self._tasks, batch.task_ids])
        return logits

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Reads the last token of each text; the logits of the next, (texts, vocabulary)."""
        assert self._cache is not None
        given = torch.tensor(tokens, device=self._mask.device)[:, None]
        self._mask = torch.cat([self._mask, torch.ones_like(given)], 1)
        return self._pass({"input_ids": given}, self._mask, self._cache, self._tasks)

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> None:
        """Drops all other rows, and places where all that are left have padding."""
        if not rows:
            self._cache = None
            return
        assert self._cache is not None
        chosen = torch.tensor(rows, device=self._mask.device)
        self._mask, self._tasks = self._mask[chosen], self._tasks[chosen]
        first = int(self._mask.any(0).int().argmax())
        self._mask = self._mask[:, first:]
        for layer in self._cache.layers:
            if layer.keys is not None:
                layer.keys = layer.keys[chosen, :, first:]
                layer.values = layer.values[chosen, :, first:]

    def _pass(
        self, inputs: dict[str, Tensor], mask: Tensor, cache: DynamicCache, tasks: Tensor
    ) -> Tensor:
        self._base.routing.set(tasks)
        length = next(iter(inputs.values())).shape[1]
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -length:]
        wanted = {"position_ids": positions, "logits_to_keep": 1}
        extra = {name: value for name, value in wanted.items() if name in self._taken}
        backbone = self._base.backbone
        with closing_up(backbone):
            output = backbone(
                **inputs, **extra, attention_mask=mask, past_key_values=cache, use_cache=True
            )
        logits: Tensor = output.logits[:, -1].float()
        return logits


def _widened(states: Tensor, length: int) -> Tensor:
    """(rows, heads, positions, channels) with zeros in front, so that there are ``length``."""
    return torch.nn.functional.pad(states, (0, 0, length - states.shape[2], 0))


def can_join(base: TaskModel) -> bool:
    """Whether a model's texts can join a batch: two are tried, one token after the other."""
    if base.backbone.config.is_encoder_decoder:
        return False
    ids = [(7 * n + 3) % base.backbone.config.get_text_config().vocab_size for n in range(12)]
    first, second, joined = ids[:7], ids[7:], OpenBatch(base)
    try:
        joined.join(_prompt(base, first[:5]))
        joined.step(first[5:6])
        joined.join(_prompt(base, second[:4]))
        found = joined.step([first[6], second[4]])
        joined.keep([1])
        found = torch.cat([found, joined.step([first[0]])])
        whole = (first, second, [*second, first[0]])
        alone = torch.cat([OpenBatch(base).join(_prompt(base, each)) for each in whole])
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False
    # A model whose numbers are not finite is refused where they are used.
    return not alone.isfinite().all() or not unexplained(found, alone, dtype=base.backbone.dtype)


def _prompt(base: TaskModel, ids: Sequence[int]) -> TaskBatch:
    tokens = torch.tensor([ids], device=base.device)
    zero = tokens.new_zeros(1)
    return TaskBatch(tokens, torch.ones_like(tokens), zero.float(), zero, zero, zero)
