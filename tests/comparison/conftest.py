from tests.comparison.quick import quick_processes
from tests.e2e.fixtures import toys

__all__ = ["quick_processes", "toys"]
