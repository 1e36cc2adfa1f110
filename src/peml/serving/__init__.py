"""Serving: prediction with a finished model."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.serving.predictor import Prediction, Predictor, load
else:
    __getattr__ = hand_on(__name__)

__all__ = ["Prediction", "Predictor", "load"]
