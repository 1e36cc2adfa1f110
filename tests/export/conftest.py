from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peml.export.fresh import refusal
from peml.export.plain import READERS
from tests.e2e.fixtures import toys

__all__ = ["toys"]


class InThisProcess:
    """Answers as `FreshProcess` does, without the seconds that a process needs to start."""

    def __init__(self, reader: str, folder: Path, *, trust_remote_code: bool) -> None:
        self._how: Any = (READERS[reader], folder, trust_remote_code)
        self._reader: Any = None

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._reader = None

    @torch.inference_mode()
    def ask(self, question: str, place: str, **tensors: Tensor) -> Tensor:
        try:
            if self._reader is None:
                kind, folder, trust = self._how
                self._reader = kind(folder, trust_remote_code=trust)
            answer: Tensor = getattr(self._reader, question)(place, **tensors)
        except Exception as error:
            raise refusal(f"other tools can't use the exported model: {error}") from error
        return answer.clone()


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peml.export.claims.FreshProcess", InThisProcess)
