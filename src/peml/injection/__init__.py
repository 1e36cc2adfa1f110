"""Puts prefixes in front of a model's attention; only this package uses Transformers' registries.

Use ``attach_prefix``; ``check_support`` says beforehand whether it will work.
"""

from peml.injection.attention import leave_out_of_graphs
from peml.injection.contexts import ALL_TASKS, Contexts
from peml.injection.inject import PrefixInjection, attach_prefix, injection_of
from peml.injection.packing import PackedRows, enable_packing
from peml.injection.probe import AttentionSite, probe, probe_decoder_side
from peml.injection.quiet import measure_start
from peml.injection.rotation import (
    cached_prefix,
    find_rotary,
    peft_layout,
    peft_prompt_embeddings,
    rotate_keys,
)
from peml.injection.rows import read_rows
from peml.injection.support import Support, check_support

__all__ = [
    "ALL_TASKS",
    "AttentionSite",
    "Contexts",
    "PackedRows",
    "PrefixInjection",
    "Support",
    "attach_prefix",
    "cached_prefix",
    "check_support",
    "enable_packing",
    "find_rotary",
    "injection_of",
    "leave_out_of_graphs",
    "measure_start",
    "peft_layout",
    "peft_prompt_embeddings",
    "probe",
    "probe_decoder_side",
    "read_rows",
    "rotate_keys",
]
