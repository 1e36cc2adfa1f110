from tests.e2e.fixtures import runs, toys

__all__ = ["runs", "toys"]
