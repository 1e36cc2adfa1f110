from tests.e2e.fixtures import distinct_toys, runs, toys
from tests.export.same_process import one_process

__all__ = ["distinct_toys", "one_process", "runs", "toys"]
