"""Export: the final model on disk."""

from peml.export.native import load_model, save_model

__all__ = ["load_model", "save_model"]
