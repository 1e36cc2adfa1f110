"""What processes of `apart` begin with: reports stay unrendered, and toys' models are imported."""

import os
from importlib import import_module

from tests.e2e.unrendered import unrender

os.fsync = lambda fd: None  # as in the tests themselves
unrender(setattr)
for _kind in ("bert", "llama", "t5"):
    import_module(f"transformers.models.{_kind}.modeling_{_kind}")
