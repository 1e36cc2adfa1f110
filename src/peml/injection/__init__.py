"""Puts prefixes in front of a model's attention; only this package uses Transformers' registries.

Use ``attach_prefix``; ``check_support`` says beforehand whether it will work.
"""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.injection.inject import PrefixInjection, attach_prefix, injection_of
    from peml.injection.probe import probe
    from peml.injection.quiet import measure_start
    from peml.injection.support import check_support
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "PrefixInjection",
    "attach_prefix",
    "check_support",
    "injection_of",
    "measure_start",
    "probe",
]
