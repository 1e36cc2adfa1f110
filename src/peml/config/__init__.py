"""The config of a run: sections, loading, overrides, schema."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.config.grants import dump_shared, is_shared, without_grants
    from peml.config.loading import (
        apply_overrides,
        dump_config,
        load_config,
        parse_config,
        read_config,
        set_value,
        validate_config,
    )
    from peml.config.model import RunConfig
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "RunConfig",
    "apply_overrides",
    "dump_config",
    "dump_shared",
    "is_shared",
    "load_config",
    "parse_config",
    "read_config",
    "set_value",
    "validate_config",
    "without_grants",
]
