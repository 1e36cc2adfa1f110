"""Permissions that only the caller may give; PEML's folders neither store nor grant them.

A user's own config may let a model's code run. The copy of it in a run's, study's or comparison's
folder may come from somebody else by the time it is used again.
"""

from pathlib import Path
from typing import Any

import yaml

from peml.settings import Settings

_GRANTS = frozenset(("trust_remote_code",))

# The configs that PEML writes, with another file in their folder.
_SHARED = {
    "config.yaml": ("environment.json", "plan.json"),
    "study.yaml": ("driver.json", "study.json"),
    "best.yaml": ("driver.json", "study.json"),
    "comparison.yaml": ("matching.json", "comparison.json"),
}


def without_grants(content: Any) -> Any:
    """A config's content, nested mappings, without permissions that only a caller may give."""
    if isinstance(content, dict):
        return {k: without_grants(value) for k, value in content.items() if k not in _GRANTS}
    if isinstance(content, list):
        return [without_grants(value) for value in content]
    return content


def dump_shared(config: Settings) -> str:
    """The resolved config as YAML without permissions, for a folder that may be shared."""
    content = without_grants(config.model_dump(mode="json"))
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def is_shared(path: Path) -> bool:
    """Whether a config file is the copy in a run's, study's or comparison's folder."""
    beside = _SHARED.get(path.name, ())
    return any((path.parent / name).is_file() for name in beside)
