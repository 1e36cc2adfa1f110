from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def plain_reports(unrendered: None) -> None:
    """No test of this folder looks at a report's figures."""
