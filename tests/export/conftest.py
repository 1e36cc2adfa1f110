from __future__ import annotations

import pytest

from tests.export.same_process import one_process

__all__ = ["one_process", "plain_reports"]


@pytest.fixture(autouse=True)
def plain_reports(unrendered: None) -> None:
    """No test of this folder looks at a report's figures."""
