"""Export: the final model on disk, in PEML's format and those of other tools."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.export.format import EXPORTS, ExportFormat, check_export, export_model, list_exports
    from peml.export.native import load_model, load_saved, save_model
    from peml.export.new_task import add_task
    from peml.export.saved import SavedModel, open_model
    from peml.export.source import find_model
    from peml.export.trained_task import add_trained_tasks
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "EXPORTS",
    "ExportFormat",
    "SavedModel",
    "add_task",
    "add_trained_tasks",
    "check_export",
    "export_model",
    "find_model",
    "list_exports",
    "load_model",
    "load_saved",
    "open_model",
    "save_model",
]
