"""For tests, ours and third parties': tiny models, sentences, conformance suites, example runs.

The suite of executors, `peml.testing.executors`, is imported by itself: it needs pytest.
"""

from peml.testing.comparisons import write_example_comparison
from peml.testing.methods import MethodSuite
from peml.testing.models import TINY_FAMILIES, save_tiny_model, tiny_model, tiny_tokenizer
from peml.testing.operations import OperationSuite
from peml.testing.runs import write_example_run
from peml.testing.sentences import SENTENCES
from peml.testing.studies import write_example_study
from peml.testing.tasks import TINY_ROWS, TINY_TASKS, batch_of, tiny_task_model

__all__ = [
    "SENTENCES",
    "TINY_FAMILIES",
    "TINY_ROWS",
    "TINY_TASKS",
    "MethodSuite",
    "OperationSuite",
    "batch_of",
    "save_tiny_model",
    "tiny_model",
    "tiny_task_model",
    "tiny_tokenizer",
    "write_example_comparison",
    "write_example_run",
    "write_example_study",
]
