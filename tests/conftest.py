"""What holds for all tests: one thread, no network, and files that needn't outlive a power cut.

With one thread, in every process they start as well, sums come out alike to the last bit.
"""

from __future__ import annotations

import gc
import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # read as torch is imported
os.environ["HF_HUB_OFFLINE"] = "1"  # what is not here is missed at once, without retries
os.fsync = lambda fd: None  # tests kill processes, not machines


pytest_plugins = ["tests.e2e.fixtures"]


def pytest_collection_finish() -> None:
    """Spares the garbage collector all that the imports made, a tenth of the suite's time.

    Before, processes that tests start get their server while nothing has run here.
    """
    if (apart := sys.modules.get("tests.e2e.apart")) is not None:
        apart.fresh_processes()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
