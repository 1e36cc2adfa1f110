"""Serving: prediction with a finished model."""

from peml.serving.predictor import Prediction, Predictor, load

__all__ = ["Prediction", "Predictor", "load"]
