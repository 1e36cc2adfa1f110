"""Uploading a saved model to the Hugging Face hub."""

from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from peml.errors import ConfigError, RunError
from peml.export.saved import ACTION, DESCRIPTION, open_model
from peml.export.source import find_model
from peml.files import MANIFEST, verify_manifest
from peml.models.source import HTTP_ERROR

_FOR_PEOPLE = ("README*", "LICENSE*", "LICENCE*", "NOTICE*")


def check_repository(name: str) -> None:
    """Refuses a name that is not a valid repository name, with a `ConfigError`."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(
            f"{name!r} can't be a repository: {error}",
            allowed="NAME, or OWNER/NAME",
            action="correct the repository's name",
        ) from error


def find_upload(path: Path) -> Path:
    """The folder to upload: an export of `export_model`, or a finished run's model."""
    is_export = all((path / name).is_file() for name in (MANIFEST, "README.md"))
    return path if is_export else find_model(path)


def list_files(folder: Path) -> dict[str, Path]:
    """The files of a `find_upload` folder by their path in the repository; verifies them."""
    is_model = (folder / DESCRIPTION).is_file()
    listed = open_model(folder).files if is_model else verify_manifest(folder, ACTION)
    names = {*listed, MANIFEST}
    names |= {path.name for pattern in _FOR_PEOPLE for path in folder.glob(pattern)}
    return {name: folder / name for name in sorted(names)}


def upload(files: Mapping[str, Path], repository: str, *, private: bool) -> str:
    """Uploads files, by their path in the repository, in one commit; returns its address.

    A missing repository is created. The token is that of ``hf auth login`` or ``HF_TOKEN``.
    """
    operations = [
        huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
        for name, path in files.items()
    ]
    api = huggingface_hub.HfApi()
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(made.repo_id, operations, commit_message="Upload a model of PEML")
    except (HTTP_ERROR, OSError, ValueError) as error:
        raise RunError(
            f"can't upload to {repository}: {error}",
            allowed="a repository that you may write to",
            action="log in with `hf auth login` (or set HF_TOKEN), check the name and the "
            "connection, then run the same command again",
        ) from error
    return str(made)
