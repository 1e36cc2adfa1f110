"""Whether a decoder-only model can share contexts: tested on the model, not looked up by name."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from peml.evaluation.scoring.requests import Request, score_alone
from peml.evaluation.scoring.trees import score_trees
from peml.models import TaskModel
from peml.models.rotary import rotary_limit

_ATTENTION = ("eager", "sdpa")
_LAYERS = {"full_attention", "sliding_attention", "global"}
_LISTED = ("layer_types", "attention_layers")  # GPT-Neo's local layers count tokens in the row
_NEEDED = ("position_ids", "past_key_values")
_LEAST_TOLERANCE = 1e-3  # nats
_TIMES_NOISE = 3.0
_PADDINGS = (3, 17)  # extra tokens of the longer row that makes the test rows padded


def sharing_problem(base: TaskModel, longest: int) -> str | None:
    """Why this model has to compute every option alone, or None if it can share contexts.

    A sliding window has to hold the longest sequence, and rotary embeddings have to stay the same.
    """
    config = base.backbone.config.get_text_config()
    attention = str(config._attn_implementation).removeprefix("peml_")
    if attention not in _ATTENTION:
        return f"its attention {attention!r} takes no custom attention mask"
    taken = inspect.signature(base.backbone.forward).parameters
    missing = [name for name in _NEEDED if name not in taken]
    if missing:
        return f"its forward pass takes no {' and no '.join(missing)}"
    others = {kind for name in _LISTED for kind in getattr(config, name, None) or ()} - _LAYERS
    if others:
        return f"it has layers of other kinds: {', '.join(sorted(others))}"
    prompt = base.prompt.vectors
    longest += 0 if prompt is None else len(prompt)
    window = getattr(config, "sliding_window", None)
    if window is not None and longest > window:
        return f"its attention window of {window} is shorter than {longest} tokens"
    limit = rotary_limit(base.backbone)
    if limit is not None and longest > limit:
        return f"its rotary embeddings change beyond {limit} tokens"
    tested = sharing_key(base)
    if tested not in base.sharing:
        base.sharing[tested] = _test_sharing(base)
    return base.sharing[tested]


def sharing_key(base: TaskModel) -> str:
    """The key of a test's result in `TaskModel.sharing`.

    What a test finds, an ignored mask or a wrong position, is in the model's code, not in its
    weights: it is tested once. Attaching a prefix changes the attention's name.
    """
    implementation = base.backbone.config._attn_implementation
    return f"{implementation}, {base.backbone.dtype}, {base.prompt.vectors is not None}"


@torch.no_grad()
def _test_sharing(base: TaskModel) -> str | None:
    """Scores a tiny tree of trunk and rows with and without sharing.

    The rounding error depends on dtype, number of layers and prefix length, so it is measured: the
    same options are scored alone, without padding and beside longer rows. An ignored mask or a
    wrong position changes scores by more.
    """
    vocabulary = base.backbone.config.get_text_config().vocab_size
    tokens = [(7 * n + 3) % vocabulary for n in range(14)]
    trunk, one, two, ends = tokens[:6], tokens[6:8], tokens[8:10], tokens[10:]
    requests = [
        Request((*trunk, *question), (ends[n], ends[n + 1]), 0)
        for question in (one, two)
        for n in range(3)
    ]
    try:
        shared = score_trees(base, requests, tokens=10, saving=1)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        return f"a test failed: {error}"  # Falcon's ALiBi takes no mask for each token
    alone = score_alone(base, requests, tokens=1)
    tolerance = max(_LEAST_TOLERANCE, _TIMES_NOISE * _rounding(base, requests, alone))
    worst = float((shared - alone).abs().max())
    if worst <= tolerance:
        return None
    return f"in a test, scores differ by {worst:.2g}; rounding explains at most {tolerance:.2g}"


def _rounding(base: TaskModel, requests: Sequence[Request], alone: Tensor) -> float:
    """How much rounding alone changes the scores of requests of equal length, in nats.

    `alone` are their scores without padding, (requests,).
    """
    steps = [float(alone.abs().max()) * torch.finfo(base.backbone.dtype).eps]
    length = len(requests[0].context) + len(requests[0].option)
    for more in _PADDINGS:
        longer = Request(requests[0].context + requests[0].option[:1] * more, requests[0].option, 0)
        beside = [*requests, longer]
        padded = score_alone(base, beside, tokens=len(beside) * (length + more))
        steps.append(float((padded[:-1] - alone).abs().max()))
    return max(steps)
