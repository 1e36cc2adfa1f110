"""Deep models, counted with few of their layers.

Where all layers are alike, what a run takes is a straight line over the number of layers. Three
points of it are counted: two make the line, the third shows that it is one. A model of 80 layers
takes minutes to run without values, since each operation goes through Python::

    bytes, FLOPs     x  x  x - - - - - - - - - - - - - - - - -> o
    layers           2  4  6                                    80
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peml.errors import PemlError
from peml.estimation.record import Estimate

_DEEP = 16  # layers from which it pays
_DEPTHS = (2, 4, 6)  # even: in some models every second layer is another
_BEND = 1e-3


def count_few_layers(layers: int, count: Callable[[int], Estimate]) -> Estimate | None:
    """The estimate of a deep model whose layers are alike.

    Args:
        layers: All of its layers; 0 where they differ.
        count: Makes the estimate of the model with fewer.

    Returns:
        None where all have to be counted. The model isn't deep, or few layers don't tell: the
        points are on no line, the method needs all layers, or gradients grow faster than what a
        forward pass keeps, so that the peak will move from the middle of a step to its end.
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
    """Three values are on no line."""


def _extended(values: list[Any], layers: int) -> Any:
    """Every number as it is with all layers."""
    low, middle, high = values
    if isinstance(low, dict):
        return {name: _extended([each[name] for each in values], layers) for name in low}
    if isinstance(low, bool) or not isinstance(low, int | float):
        return low
    if abs(high - 2 * middle + low) > _BEND * abs(high):
        raise _NoLineError
    whole = high + (high - middle) * (layers - _DEPTHS[2]) / (_DEPTHS[2] - _DEPTHS[1])
    return round(whole) if isinstance(low, int) else whole
