from tests.execution.quick import quick_processes

__all__ = ["quick_processes"]
