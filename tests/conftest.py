"""One thread in the tests and in every process they start: sums come out alike to the last bit."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read as torch is imported
