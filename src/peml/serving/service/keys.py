"""Keys that callers of the service have to send."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from peml.errors import ConfigError
from peml.serving.service.refusal import RefusedError

_LEAST = 16


class Keys:
    """The accepted keys. Only their digests are kept, and no message or log names one."""

    def __init__(self, *keys: str) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Reads a file with one key per line; skips empty lines and those that begin with #."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the key file {path} can't be read: {type(error).__name__}",
                allowed="a text file with one key per line",
                action="correct --api-key-file",
            ) from error
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        short = [number for number, key in enumerate(keys, start=1) if len(key) < _LEAST]
        if short or not keys:
            problem = f"key {short[0]} is too short" if short else "there is no key"
            raise ConfigError(
                f"the key file {path}: {problem}",
                allowed=f"keys of {_LEAST} characters or more, one per line",
                action="make one with: python -c 'import secrets; print(secrets.token_urlsafe())'",
            )
        return cls(*keys)

    def check(self, authorization: bytes) -> None:
        """Refuses a header ``Authorization`` without a key, in the same time for every key."""
        scheme, _, key = authorization.partition(b" ")
        sent = _digest(key.strip())
        found = [hmac.compare_digest(sent, known) for known in self._digests]
        if scheme.lower() == b"bearer" and any(found):
            return
        raise RefusedError(
            401,
            "unauthorized",
            "the key is wrong" if authorization else "there is no key",
            field="Authorization",
            allowed="Authorization: Bearer KEY",
            remedy="send one of the keys that the service was started with",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
