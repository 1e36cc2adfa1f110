from tests.e2e.fixtures import toys

__all__ = ["toys"]
