"""Rotary embeddings whose frequencies depend on the longest row of a batch.

``longrope`` (Phi-3, Phi-4-mini) and ``dynamic`` change them for all rows once one is longer than
the length of the model's first training; ``dynamic`` keeps what an earlier batch needed.
"""

import warnings
from typing import Any

from peml.errors import ModelError

_LONG, _DYNAMIC = "longrope", "dynamic"


def rotary_limit(model: Any) -> int | None:
    """Tokens up to which a model's rotary frequencies are the same in every batch; None: always."""
    return min(_limits(model).values(), default=None)


def check_rotary(model: Any, longest: int, name: str) -> None:
    """Warns of rows beyond the limit, whose batch changes their scores.

    ``longest`` is the most tokens of a row, ``model.max_length``.

    Raises:
        ModelError: Scores would depend on the batches before, too.
    """
    limits = {kind: limit for kind, limit in _limits(model).items() if limit < longest}
    if not limits:
        return
    limit = min(limits.values())
    problem = (
        f"rows may have up to {longest} tokens, and the rotary embeddings of model {name!r} "
        f"({', '.join(limits)}) change for a whole batch where one row has more than {limit}"
    )
    if _DYNAMIC in limits:
        raise ModelError(
            f"{problem}; so a row's scores depend on the batches before it",
            allowed=f"rows of up to {limit} tokens",
            action=f"set model.max_length: {limit}, or choose another model",
        )
    warnings.warn(
        f"{problem}: a row's scores depend on the rows in its batch, and can differ between "
        f"commands. model.max_length: {limit} avoids it, and cuts longer rows.",
        stacklevel=4,
    )


def _limits(model: Any) -> dict[str, int]:
    """The limit of each kind of such embeddings in a model."""
    found: dict[str, int] = {}
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        layers = kinds if isinstance(kinds, dict) else {"": kinds}
        for layer, kind in layers.items():
            if kind not in (_LONG, _DYNAMIC):
                continue
            limit = module.config.max_position_embeddings
            if kind == _LONG:
                parameters = module.config.rope_parameters
                limit = parameters.get(layer, parameters)["original_max_position_embeddings"]
            found[kind] = min(limit, found.get(kind, limit))
    return found
