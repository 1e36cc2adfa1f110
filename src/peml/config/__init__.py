"""The config of a run: sections, loading, overrides, schema."""

from peml.config.grants import dump_shared, without_grants
from peml.config.loading import (
    apply_overrides,
    dump_config,
    load_config,
    parse_config,
    read_config,
    validate_config,
)
from peml.config.model import RunConfig, TuningCost

__all__ = [
    "RunConfig",
    "TuningCost",
    "apply_overrides",
    "dump_config",
    "dump_shared",
    "load_config",
    "parse_config",
    "read_config",
    "validate_config",
    "without_grants",
]
