from tests.e2e.fixtures import distinct_toys, runs, toys

__all__ = ["distinct_toys", "runs", "toys"]
