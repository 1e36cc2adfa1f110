"""A switch for parts that can be disabled: a prefix, a prompt, the correction of contexts."""

from collections.abc import Iterator
from contextlib import contextmanager


class Switch:
    """On, except inside an `off` block; such blocks may be nested."""

    def __init__(self) -> None:
        self.is_on = True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Switches off inside the block."""
        before, self.is_on = self.is_on, False
        try:
            yield
        finally:
            self.is_on = before
