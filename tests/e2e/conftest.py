from tests.export.same_process import one_process

__all__ = ["one_process"]
