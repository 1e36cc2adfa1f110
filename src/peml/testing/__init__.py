"""For tests, ours and third parties': tiny models, sentences, conformance suites, example runs."""

from peml.testing.models import TINY_FAMILIES, save_tiny_model, tiny_model, tiny_tokenizer
from peml.testing.operations import OperationSuite
from peml.testing.runs import write_example_run
from peml.testing.sentences import SENTENCES

__all__ = [
    "SENTENCES",
    "TINY_FAMILIES",
    "OperationSuite",
    "save_tiny_model",
    "tiny_model",
    "tiny_tokenizer",
    "write_example_run",
]
