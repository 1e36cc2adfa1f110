"""Estimates deep models from few of their layers.

If all layers are alike, bytes and FLOPs grow linearly with the number of layers. Three depths are
counted: two for the line, the third to check it. To run 80 layers without values would take
minutes, since each operation goes through Python::

    bytes, FLOPs     x  x  x - - - - - - - - - - - - - - - - -> o
    layers           2  4  6                                    80
"""

from collections.abc import Callable
from typing import Any

from peml.errors import PemlError
from peml.estimation.record import Estimate

_DEEP = 16  # layers from which on this is faster
_DEPTHS = (2, 4, 6)  # even: in some models every second layer is different
_BEND = 1e-3  # largest deviation from the line, relative


def count_few_layers(layers: int, count: Callable[[int], Estimate]) -> Estimate | None:
    """The estimate of a deep model whose layers are alike.

    ``layers`` is 0 if they differ; ``count`` estimates the model with fewer.

    Returns:
        None if all layers have to be counted: the model isn't deep, the three depths are not on a
        line, the method needs all layers, or gradients grow faster than activations, so that the
        peak will move from the middle of a step to its end.
    """
    if layers < _DEEP:
        return None
    try:
        found = [count(few) for few in _DEPTHS]
        training = [each.training.activations for each in found if each.training is not None]
        if training != sorted(training):
            return None
        whole = _extended([each.model_dump() for each in found], layers)
    except (PemlError, _NoLineError):
        return None
    listed = ", ".join(map(str, _DEPTHS))
    whole["basis"] += f"; counted with {listed} of {layers} layers"
    return Estimate.model_validate(whole)


class _NoLineError(Exception):
    """Three values are not on a line."""


def _extended(values: list[Any], layers: int) -> Any:
    """Every number, extrapolated to all layers."""
    low, middle, high = values
    if isinstance(low, dict):
        return {name: _extended([each[name] for each in values], layers) for name in low}
    if isinstance(low, bool) or not isinstance(low, int | float):
        return low
    if abs(high - 2 * middle + low) > _BEND * abs(high):
        raise _NoLineError
    whole = high + (high - middle) * (layers - _DEPTHS[2]) / (_DEPTHS[2] - _DEPTHS[1])
    return round(whole) if isinstance(low, int) else whole
