"""Whether a decoder-only model can share contexts: asked of the model, not of a list of names."""

from __future__ import annotations

import inspect

import torch

from peml.evaluation.scoring.alone import score_alone
from peml.evaluation.scoring.requests import Request
from peml.evaluation.scoring.trees import score_trees
from peml.models import TaskModel

__all__ = ["sharing_problem"]

_ATTENTION = ("eager", "sdpa")
_LAYERS = {"full_attention", "sliding_attention"}
_NEEDED = ("position_ids", "past_key_values")
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_COARSE_TOLERANCE = 0.2


def sharing_problem(base: TaskModel, longest: int) -> str | None:
    """Why this model has to compute every option alone, or None.

    Args:
        base: A decoder-only model, with whatever is attached to it.
        longest: The longest sequence's tokens; a sliding window has to hold it.
    """
    config = base.backbone.config
    attention = str(config._attn_implementation).removeprefix("peml_")
    if attention not in _ATTENTION:
        return f"its attention {attention!r} takes no mask of who sees whom"
    taken = inspect.signature(base.backbone.forward).parameters
    missing = [name for name in _NEEDED if name not in taken]
    if missing:
        return f"its forward pass takes no {' and no '.join(missing)}"
    others = set(getattr(config, "layer_types", None) or ()) - _LAYERS
    if others:
        return f"it has layers of other kinds: {', '.join(sorted(others))}"
    prompt = base.prompt.vectors
    longest += 0 if prompt is None else len(prompt)
    window = getattr(config, "sliding_window", None)
    if window is not None and longest > window:
        return f"its attention window of {window} is shorter than {longest} tokens"
    return _tried(base)


@torch.no_grad()
def _tried(base: TaskModel) -> str | None:
    """Scores a tiny tree, trunk and rows, both ways."""
    tokens = [(7 * n + 3) % base.backbone.config.vocab_size for n in range(14)]
    trunk, one, two, ends = tokens[:6], tokens[6:8], tokens[8:10], tokens[10:]
    requests = [
        Request((*trunk, *question), (ends[n], ends[n + 1]), 0)
        for question in (one, two)
        for n in range(3)
    ]
    shared = score_trees(base, requests, tokens=10, saving=1)
    alone = score_alone(base, requests, tokens=10)
    tolerance = _TOLERANCE.get(base.backbone.dtype, _COARSE_TOLERANCE)
    worst = float((shared - alone).abs().max())
    if worst <= tolerance:
        return None
    return f"a try gave scores that differ by {worst:.2g}"
