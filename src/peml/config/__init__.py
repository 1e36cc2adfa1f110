"""The config of a run: sections, loading, overrides, schema."""

from typing import TYPE_CHECKING

from peml.lazy import hand_on

if TYPE_CHECKING:
    from peml.config.loading import load_config, parse_config
    from peml.config.model import RunConfig
else:
    __getattr__ = hand_on(__name__)

__all__ = [
    "RunConfig",
    "load_config",
    "parse_config",
]
