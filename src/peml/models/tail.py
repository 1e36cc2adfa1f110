"""Computes the logits of many positions in chunks, so that they are never all in memory.

The code after the layers (a scaling, the output layer, a soft cap) is the model's own. It is run
for one chunk of positions at a time, in a copy of the model whose other parts return their stored
outputs.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

NLL = Callable[[Tensor, Tensor], Tensor]
"""From hidden states (positions, channels) and tokens (positions,) to losses (positions,)."""


def cross_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    """Negative log-likelihoods, (positions,) float32."""
    return nn.functional.cross_entropy(logits.float(), tokens, reduction="none")


@contextmanager
def feeding(layer: nn.Module, choose: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replaces the hidden states that an output layer gets inside the block.

    ``choose`` maps the model's hidden states, (rows, length, channels), to (positions, channels).
    """

    def change(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *others = inputs
        return (choose(hidden)[None], *others)

    handle = layer.register_forward_pre_hook(change)
    try:
        yield
    finally:
        handle.remove()


def nll_in_chunks(
    model: Any, choose: Callable[[Tensor], Tensor], tokens: Tensor, most: int, **inputs: Any
) -> Tensor:
    """Negative log-likelihood of a token at each chosen position, (positions,) float32.

    `choose` selects the hidden states, see `feeding`; `tokens` has a token for each position. The
    logits of at most `most` positions are computed at once.
    """
    layer = model.get_output_embeddings()
    hidden, tail = _run(model, layer, choose, inputs)

    def nll(part: Tensor, wanted: Tensor) -> Tensor:
        with feeding(layer, lambda _: part):
            return cross_entropy(tail(**inputs).logits[0], wanted)

    chunks = list(zip(hidden.split(most), tokens.split(most), strict=True))
    if not torch.is_grad_enabled():
        return torch.cat([nll(*chunk) for chunk in chunks])
    if any(parameter.requires_grad for parameter in tail.parameters()):
        return torch.cat([checkpoint(nll, *chunk, use_reentrant=False) for chunk in chunks])
    losses: Tensor = _FrozenTail.apply(hidden, tokens, nll, most)
    return losses


def _run(
    model: Any, layer: nn.Module, choose: Callable[[Tensor], Tensor], inputs: dict[str, Any]
) -> tuple[Tensor, nn.Module]:
    """The chosen hidden states, (positions, channels), and the rest of the model."""
    chosen: list[Tensor] = []
    outputs: dict[nn.Module, Any] = {}

    def take(hidden: Tensor) -> Tensor:
        chosen.append(choose(hidden))
        return chosen[0][:0]  # nothing is scored yet

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        outputs[module] = output

    handles = [part.register_forward_hook(keep) for part in _parts(model, layer)]
    try:
        with feeding(layer, take):
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return chosen[0], _replaying(model, outputs)


def _parts(module: nn.Module, layer: nn.Module) -> Iterator[nn.Module]:
    """The modules before the output layer, and their children, which some models call."""
    for child in module.children():
        if layer not in child.modules():
            yield from (child, *child.children())
        elif child is not layer:
            yield from _parts(child, layer)


def _replaying(module: nn.Module, outputs: dict[nn.Module, Any]) -> nn.Module:
    """A copy that shares everything, but whose parts return their stored outputs."""
    if module in outputs:
        return _Replay(outputs[module])
    twin = copy.copy(module)
    children = {name: _replaying(child, outputs) for name, child in module.named_children()}
    twin.__dict__["_modules"] = children
    return twin


class _Replay(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.output


class _FrozenTail(torch.autograd.Function):
    """Computes gradients together with the losses, so that logits are computed once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, tokens: Tensor, nll: NLL, most: int) -> Tensor:
        losses, gradients = [], []
        for part, wanted in zip(hidden.split(most), tokens.split(most), strict=True):
            leaf = part.detach().requires_grad_()
            with torch.enable_grad():
                found = nll(leaf, wanted)
                total = found.sum()
            losses.append(found.detach())
            gradients += torch.autograd.grad(total, leaf)
            del found, total  # the next chunk's logits take their place
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return (weights[:, None] * gradients).to(gradients.dtype), None, None, None
