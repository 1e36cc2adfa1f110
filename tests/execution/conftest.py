from __future__ import annotations

import pytest

from tests.execution.quick import quick_processes

__all__ = ["plain_reports", "quick_processes"]


@pytest.fixture(autouse=True)
def plain_reports(unrendered: None) -> None:
    """No test of this folder looks at a report's figures."""
