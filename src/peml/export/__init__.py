"""Export: the final model on disk."""

from peml.export.finished import find_model
from peml.export.lora import export_lora
from peml.export.native import load_model, save_model

__all__ = ["export_lora", "find_model", "load_model", "save_model"]
