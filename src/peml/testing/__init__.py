"""For tests, ours and those of other packages: tiny models and conformance suites."""

from peml.testing.exports import ExportSuite
from peml.testing.families import FamilySuite
from peml.testing.methods import MethodSuite
from peml.testing.models import TINY_FAMILIES, save_tiny_model, tiny_model, tiny_tokenizer
from peml.testing.operations import OperationSuite
from peml.testing.tasks import TINY_ROWS, TINY_TASKS, batch_of, tiny_task_model

__all__ = [
    "TINY_FAMILIES",
    "TINY_ROWS",
    "TINY_TASKS",
    "ExportSuite",
    "FamilySuite",
    "MethodSuite",
    "OperationSuite",
    "batch_of",
    "save_tiny_model",
    "tiny_model",
    "tiny_task_model",
    "tiny_tokenizer",
]
