"""Limits of the service."""

from pydantic import Field

from peml.settings import Settings


class Limits(Settings):
    """Limits on the size of requests, on the queue, and on waiting times."""

    body: int = Field(1_048_576, description="Largest request body in bytes.", ge=1024)
    rows: int = Field(256, description="Most rows of a request.", ge=1)
    tokens: int = Field(
        32_768, description="Most tokens of a request's rows, options included.", ge=16
    )
    new_tokens: int = Field(512, description="Most tokens of a completion.", ge=1)
    queue: int = Field(1024, description="Most rows that wait, of all requests.", ge=1)
    timeout: float = Field(30.0, description="Most seconds until a request is answered.", gt=0)
    wait: float = Field(
        2.0,
        description="Milliseconds that a batch of a busy service waits for further rows. A request "
        "that comes alone never waits.",
        ge=0,
    )
