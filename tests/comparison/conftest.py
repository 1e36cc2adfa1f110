from tests.e2e.fixtures import distinct_toys, toys
from tests.execution.quick import quick_processes

__all__ = ["distinct_toys", "quick_processes", "toys"]
