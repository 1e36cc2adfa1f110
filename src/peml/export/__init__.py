"""Export: the final model on disk."""

from peml.export.finished import find_model
from peml.export.lora import export_lora
from peml.export.native import load_model, read_evaluation, save_model
from peml.export.peft import export_peft

__all__ = [
    "export_lora",
    "export_peft",
    "find_model",
    "load_model",
    "read_evaluation",
    "save_model",
]
