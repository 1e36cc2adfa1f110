"""What commands do to spare processor time and memory."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any


@contextmanager
def quick_imports() -> Iterator[None]:
    """Imports libraries without searching them for garbage, neither now nor later: 0.8 s for torch.

    Does nothing in a process that has torch already.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def limit_kernels() -> None:
    """Lets libraries keep few compiled kernels; called before torch computes anything.

    oneDNN and PyTorch's layer above it each keep those of 1,024 shapes, half a MB a shape. Rows
    that are read as they come have ever new shapes, and memory would grow with them.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "16")


def rest_idle_threads() -> None:
    """Lets threads sleep while they wait for the next product; called before torch is imported.

    Otherwise they spin, which takes more processor time than the products of a few rows.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class _NoPandas(MetaPathFinder):
    def find_spec(self, name: str, *_: Any) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def skip_pandas() -> None:
    """Lets pyarrow find no pandas: it would import it (0.3 s) to see whether a list is its own.

    pyarrow asks once. All others still find it, and so does pyarrow for what it converts to pandas.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, finder := _NoPandas())
    try:
        import pyarrow

        pyarrow.array([])
    finally:
        sys.meta_path.remove(finder)
