"""This package's version, and those of the libraries."""

from collections.abc import Iterable

VERSION = "0.1.0"


def read_versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of each package, or "not installed".

    PEML itself may be imported from its source folder, without being installed.
    """
    return {name: VERSION if name == "peml" else _version(name) for name in packages}


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
