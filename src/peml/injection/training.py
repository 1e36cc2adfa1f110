"""Attention in training on a CPU, where torch's own is slow: in bfloat16, and with dropout."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peml.errors import InjectionError
from peml.injection.attention import register_wrapper
from peml.injection.probe import in_eval_mode, switch_implementation, unwrap

_LENGTH, _SHORT = 6, 3


@contextmanager
def fast_attention(model: nn.Module, *, tested: bool = True) -> Iterator[None]:
    """Trains a model on a CPU with PEML's ``sdpa`` inside the block (`attention.sdpa_on_cpu`).

    A model keeps its own attention if it is elsewhere, is an encoder-decoder, doesn't use ``sdpa``,
    or if the wrapper, which computes the same without gradients, changes its output in a test
    (`tested`; tensors without values can't be compared).
    """
    inner = unwrap(model)
    wrapped = inner.device.type == "cpu" and _wrap(inner, tested)
    try:
        yield
    finally:
        if wrapped:
            switch_implementation(inner, "sdpa")


def _wrap(model: PreTrainedModel, tested: bool) -> bool:
    """Whether the model's attention is wrapped now."""
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    names = {part.config._attn_implementation for part in parts}
    if model.config.is_encoder_decoder or names != {"sdpa"}:
        return False
    try:
        before = _output(model) if tested else None
        switch_implementation(model, register_wrapper("sdpa"))
        if before is None or torch.equal(_output(model), before):
            return True
    except (AttributeError, InjectionError, LookupError, RuntimeError, TypeError, ValueError):
        pass  # it can't read the rows of the test, or its attention can't be wrapped
    for part in parts:
        part.set_attn_implementation("sdpa")
    return False


@torch.no_grad()
def _output(model: PreTrainedModel) -> Tensor:
    """Hidden states of two rows, one of them padded."""
    body = model.base_model
    ids = torch.arange(2 * _LENGTH).view(2, _LENGTH) % model.config.get_text_config().vocab_size
    mask = torch.ones_like(ids)
    mask[1, _SHORT:] = 0
    with in_eval_mode(model):
        output: Tensor = body(input_ids=ids, attention_mask=mask).last_hidden_state
    return output
